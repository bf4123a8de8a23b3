"""Sequences of operations that one kernel computes: each is a module with a `Fusion`."""
