"""FastAPI applications around the parts of the loop."""
