"""Tracking logs: one JSON object a line, from the official SDKs of each vendor."""
