"""Learning on without forgetting: small functions on the flat vector, one paper a file.

Laws: they change a step's gradient and nothing else, so that clipping, optimisers and strategies work on top as ever;
without terms no step differs by a bit; what they keep stays on the device.
"""
