"""The rules of the platform, pure: no file, network, clock, environment or scheduler is touched in this room."""
