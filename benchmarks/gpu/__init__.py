"""Measurements of a GPU, by PyTorch alone."""
