"""The twin beside measurements of real servers, ours and those that others published."""
