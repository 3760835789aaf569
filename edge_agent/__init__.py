"""The device's side: a small long-lived agent, and short-lived trainer processes that hold the ML runtime.

Laws: never imports aggregator, export, models, torch or onnx; only ``edge_agent.trainer`` imports numpy and a runtime,
and only in the trainer's own process.
"""
