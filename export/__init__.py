"""From a foundation model to a bundle: load, adapt, trace, lower, pack, check. One pass a file."""
