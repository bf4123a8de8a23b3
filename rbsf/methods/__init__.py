"""Binarization methods, one file each: a subclass of `rbsf.layers.BinaryConv2d`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbsf.layers import BinaryConv2d

METHODS = {  # a file of this folder -> the class in it
    "rbcn": "RBConv2d",
    "xnor": "XNORConv2d",
    "xnor_k": "XNORKConv2d",
    "binarynet": "BinaryNetConv2d",
    "bireal": "BiRealConv2d",
    "abcnet": "ABCConv2d",
    "pcnn": "ProjectionConv2d",
    "scheme_a": "SchemeAConv2d",
}


def get_method(name: str) -> type[BinaryConv2d]:
    """The convolution class of method `name`. Raises ValueError if the name is unknown."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    module = import_module(f"rbsf.methods.{name}")
    return getattr(module, METHODS[name])
