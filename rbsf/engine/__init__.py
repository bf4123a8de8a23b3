"""Packed 1-bit networks on the CPU: file format, NumPy reference, C++ kernels.

This package never imports torch.
"""
