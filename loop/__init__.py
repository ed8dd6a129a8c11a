"""The control loop: collector, optimizer, actuator and controller; the same code for the twin and
for a cluster.
"""
