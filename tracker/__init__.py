"""Tracking: geometry of crops and boxes, the trackers, and their training tasks."""

ENGINES = ("auto", "packed", "torch")
PRECISIONS = ("float32", "bfloat16")  # of PyTorch
