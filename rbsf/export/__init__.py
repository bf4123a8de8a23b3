"""From a trained network to a packed file or ONNX, and proof that both compute the same.

It imports nothing itself.
"""
