"""Which layer has made a tensor, found by the tensor itself."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Makers:
    """Who made a tensor, for as long as nothing is written into it, as ReLU(inplace=True) does."""

    def __init__(self) -> None:
        self._makers = WeakIdKeyDictionary()

    def note(self, output: Tensor, maker: str) -> None:
        """Keep in mind that `maker` has made `output`."""
        self._makers[output] = (maker, output._version)

    def maker(self, tensor: Tensor) -> str:
        """The name of what has made `tensor`; empty where that was not noted, or has changed it."""
        maker, version = self._makers.get(tensor, ("", None))
        return maker if tensor._version == version else ""
