"""The worlds a controller can run over, each with its own options."""
