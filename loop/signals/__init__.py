"""From samples of what servers tell of themselves to their demand and latencies. Pure."""
