"""Where figures of servers come from: Prometheus, the pages of pods, labels."""
