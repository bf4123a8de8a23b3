"""Readers of foreign trackers, for the networks here to learn from.  Imports nothing itself."""
