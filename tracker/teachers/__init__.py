"""Readers of other projects' trackers, used as teachers. This module itself imports nothing."""
