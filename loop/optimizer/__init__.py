"""Which accelerator, how many replicas, what batch size: sizing, choosing, explaining. Pure."""
