"""Differential privacy of folds: clipping, exact noise, adaptive clips, sampling, accounting. Pure rules, no IO."""
