"""Finds the layer that made a tensor."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Makers:
    """Remembers which layer made a tensor, until something (as ReLU(inplace=True)) changes it."""

    def __init__(self) -> None:
        self._makers = WeakIdKeyDictionary()

    def note(self, output: Tensor, maker: str) -> None:
        """Record that `maker` made `output`."""
        self._makers[output] = (maker, output._version)

    def maker(self, tensor: Tensor) -> str:
        """The name of the layer that made `tensor`; empty if unknown or if `tensor` has changed."""
        maker, version = self._makers.get(tensor, ("", None))
        return maker if tensor._version == version else ""
