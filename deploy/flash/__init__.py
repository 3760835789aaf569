"""``edgefold flash``: puts the agent onto a device, with the material that lets it in once.

A target is a small file of facts (``targets``); a plan is a list of steps that pure functions make of a target and a
device's settings (``image_plan``); one place carries steps out (``workshop``). Nothing here needs root, a loop device
or the device itself.
"""
