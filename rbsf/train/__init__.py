"""Shared parts of all training: configuration, loop, checkpoints, logs, several processes."""
