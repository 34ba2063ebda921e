"""Referral: the credited invitation forest and its K factors; pure."""
