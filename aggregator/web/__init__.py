"""HTTP: the page, the admin interface, the metrics and the probes.

Laws: runs on a thread of its own with a bounded number of workers; reads through connections that cannot write, and
writes only what the command line writes (commands, tokens, approvals); nothing here is imported unless ``[http]`` is
configured. docs/operations.md is the operator's view.
"""
