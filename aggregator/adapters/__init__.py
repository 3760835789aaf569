"""The aggregator's hands: database, blobs, evaluation, registry, broker; each implements a port."""
