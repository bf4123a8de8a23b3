"""Packed 1-bit networks on the CPU: file format, NumPy reference, C++ kernels.

It never imports torch.
"""
