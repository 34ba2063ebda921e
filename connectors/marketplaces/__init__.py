"""Order files exported from the public platforms, recognised by their headers."""
