"""Shared parts of all training: configuration, loop, checkpoints, logs, several processes."""

CHECKPOINT = "checkpoint.pt"  # file in the folder of a training
