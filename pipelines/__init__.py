"""Wiring: every step of the way as a Dagster asset or asset check. The only room that imports dagster."""
