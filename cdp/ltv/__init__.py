"""Lifetime value: probability models of buying and spending; pure."""
