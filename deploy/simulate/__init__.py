"""Virtual devices on the real wire: they speak the whole protocol to a real broker and aggregator, and train nothing.

One process is thousands of devices. What is real: keys, signatures, seals, codecs, MQTT. What is not: the training,
which is a wait of a device's speed, and the deltas, which are random vectors of a plausible length.
"""
