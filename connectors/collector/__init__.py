"""HTTP collector: takes what tracking SDKs and WeCom callbacks send, and keeps it on disk before it answers."""
