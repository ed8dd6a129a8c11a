"""The twin as a cluster: a Kubernetes API and /metrics over a simulated world. Nothing else in twin
imports it.
"""
