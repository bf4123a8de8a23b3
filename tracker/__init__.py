"""Tracking: geometry of crops and boxes, the trackers, and their training tasks."""
