"""What crosses between device and service: messages, layout, codec, sealing, signatures, bundle manifest.

Laws: no IO, no clock, no ML framework; every function is bytes or values in, values or bytes out. Only ``codec`` and
``secure_sum`` need numpy, so that an idle agent can speak the protocol without loading it.
"""
