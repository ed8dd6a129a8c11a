"""One replica of an inference engine: batches, KV cache, latency model, telemetry. Knows no
SimPy.
"""
