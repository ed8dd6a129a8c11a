"""Measurements of speed and size: ratios within one run, CPU time; never a timed test."""
