"""A Kubernetes API in memory. It knows nothing of the twin, and could be used without it."""
