"""The queueing model of one replica, by which the optimizer estimates latencies."""
