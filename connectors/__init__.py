"""Getting data in: one folder or module per kind of source, each a parser behind the contract of `cdp.streams`."""
