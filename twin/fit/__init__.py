"""From logs of real servers to the coefficients of the latency model."""
