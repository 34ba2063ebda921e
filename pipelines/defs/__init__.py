"""One module per domain; each gives the assets, checks, schedules or sensors of that domain."""
