"""Judging what arrives: is it late, is it more or less than usual. Pure: counts and instants in, verdicts out."""
