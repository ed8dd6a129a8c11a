"""The worlds a controller can run over, each with its own options and a way to open it."""
