"""The worlds that a loop can observe and change."""
