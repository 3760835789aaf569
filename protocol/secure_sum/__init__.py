"""Secure sum: devices send masked vectors, of which only the sum can be read (SecAgg+, DESIGN D5, docs/adr/0009).

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead" (ePrint 2020/704): Bonawitz et al. 2017 (ePrint 2017/281, figure 4: the five steps) on a sparse graph.
Departures are named where they are made and listed in docs/secure-sum.md.

    graph         who masks with whom, and how many shares open a secret
    quantise      float32 vectors to integers modulo 2**bits and back
    masks         keystreams added to a vector
    shamir        secrets cut into shares
    keys          agreement, sealing and signatures between devices
    messages      the plan and what the parties send
    device        the device's steps
    device_state  what a device keeps of a sum, and what follows from it
    server        the server's steps

Laws: no IO, no clock; randomness comes in as bytes. Only ``messages`` can be loaded without numpy.
"""
