"""What people touch: the `cdp` command line."""
