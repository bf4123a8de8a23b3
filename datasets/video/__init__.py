"""Frames and sequences: images, folders, videos, and the layouts of published tracking data."""
