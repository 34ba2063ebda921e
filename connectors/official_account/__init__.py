"""公众号 (Official Account): followers."""
