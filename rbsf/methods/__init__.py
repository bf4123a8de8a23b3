"""Binarization methods, one file each: a subclass of `rbsf.layers.BinaryConv2d`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbsf.layers import BinaryConv2d

METHODS = {"rbcn": "RBConv2d", "xnor": "XNORConv2d"}  # file -> class in it


def get_method(name: str) -> type[BinaryConv2d]:
    """The convolution class of method `name`; ValueError with the known names otherwise."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return getattr(import_module(f"rbsf.methods.{name}"), METHODS[name])
