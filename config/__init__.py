"""What a brand edits: the commented defaults that `cdp init` writes into a home, one JSON Schema each."""
