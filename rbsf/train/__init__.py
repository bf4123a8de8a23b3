"""Plumbing of training: configuration, loop, checkpoints, logs, several processes."""
