"""A practice world: a WeCom and Official Account server, and a generator of brands with known truth.

This room imports no other room of the project, so that it stays an independent witness.
"""
