"""Puts agents and services on machines: here, a whole fleet on this one.

Laws: starts edgefold's programs as processes and reads what they print; never imports agent, aggregator or export.
"""
