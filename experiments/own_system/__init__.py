"""A system of one's own: from a cluster and its metrics to data for the twin, and back again."""
