"""Business metrics: settings, decomposition and scoring; pure."""
