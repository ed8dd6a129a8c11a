"""The world: a model of LLM inference servers on accelerators. It knows no controller."""
