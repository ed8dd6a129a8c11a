"""Questions: runs, sweeps and comparisons on the twin, and their figures."""
