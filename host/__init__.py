"""What agent, aggregator, export and deploy share that touches this machine.

Durable files, configuration, keys, logs, bundle folders, the MQTT link and its in-memory twin, the trainer process.
Laws: depends on ``protocol`` alone; loads neither numpy nor an ML runtime (``arrays`` excepted, which the idle agent
does not import); knows nothing of rounds, tasks or models. Why it exists beside DESIGN's folders: docs/adr/0002.
"""
