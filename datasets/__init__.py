"""Frames, sequences, training crops and pairs, and a generator of synthetic videos. Never touches
the network.
"""
