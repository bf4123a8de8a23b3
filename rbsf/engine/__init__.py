"""Packed 1-bit networks on the CPU: file format, NumPy reference, C++ kernels.  Imports no torch,
ever.
"""
