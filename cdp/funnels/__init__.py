"""Funnels: definition, level kernel, SQL chain and summaries; pure."""
