"""The replicas of one server over flat arrays, compiled by Numba: the steps of twin.engine.replica,
in the same order, with the same sums to the last bit.

Needs the extra `fast`. The plain engine is the reference; what it does differently from this one is
a fault here.
"""
