"""The service: opens tasks, runs rounds, folds updates, keeps every version. It never loads an ML runtime.

``core`` holds the rules, ``ports`` what they need of the world, ``adapters`` the world; ``app`` is the event pump,
``setup`` joins all of it, ``cli`` is the way in. How it works: docs/aggregator.md.
"""
