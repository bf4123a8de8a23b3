"""Turns a trained network into a packed file or ONNX, and checks that both compute the same.

This module itself imports nothing.
"""
