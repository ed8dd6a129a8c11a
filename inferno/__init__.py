"""The command, and the only place that wires worlds, loads, loops and experiments together."""
