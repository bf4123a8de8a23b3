"""Frames, sequences, training crops and pairs, labelled images, and a generator of videos.

Nothing here uses the network.
"""
