"""The trainer: a process that takes one job over a pipe (``protocol.jobs``), does it with an ML runtime, and exits.

Laws: no network, no keys; writes only into its job's ``out`` folder; loads the runtime after its limits are in force.
"""
