"""A Kubernetes cluster as a world of the loop."""
