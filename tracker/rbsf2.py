"""RB-SF 2 as a network of `rbsf.tracker.anchor_free`: packed (without PyTorch) or in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rbsf.engine.file import read_packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.run import Engine
from rbsf.engine.template import TemplateNode
from rbsf.tracker.anchor_free import Answer, Network
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE

if TYPE_CHECKING:  # torch takes a second to import, and packed networks do not need it
    import torch
    from torch import nn

MAPS = (5, 6)  # number of a head's maps without presence and with it


class PackedNetwork:
    """RB-SF 2 in the packed engine."""

    def __init__(
        self, model: PackedModel | str | Path, threads: int = 1, isa: str = "auto"
    ) -> None:
        """`model`: a checked model or the path of its file.

        The other parameters and the errors are those of `rbsf.engine.run.Engine`. Also raises
        ValueError for a network without a template.
        """
        model = model if isinstance(model, PackedModel) else read_packed(model)
        self._template = TemplateNode.of(model)
        self._features = Engine(model.up_to(self._template.features), threads, isa)
        self._search = Engine(model, threads, isa)  # its template is replaced for each target
        self.isa = self._features.isa

    def __str__(self) -> str:
        return str(self._search)

    def learn(self, crop: np.ndarray) -> Engine:
        """See `rbsf.tracker.anchor_free.Network`."""
        features = self._features(crop[None])
        steps = features.reshape(-1, 1, 1, self._template.channels)  # [cells, 1, 1, C]
        weight = steps * np.float32(self._template.scale)
        return self._search.with_weight(self._template.node, weight)

    def answer(self, template: Engine, crop: np.ndarray) -> Answer:
        """See `rbsf.tracker.anchor_free.Network`."""
        return answer_of(template(crop[None])[0])


class TorchNetwork:
    """RB-SF 2 in PyTorch."""

    def __init__(self, net: nn.Module) -> None:
        self.net: Any = net.eval()
        self.device = next(net.parameters()).device

    def learn(self, crop: np.ndarray) -> torch.Tensor:
        """See `rbsf.tracker.anchor_free.Network`."""
        return self._features(crop)

    def answer(self, template: torch.Tensor, crop: np.ndarray) -> Answer:
        """See `rbsf.tracker.anchor_free.Network`."""
        import torch

        with torch.inference_mode():
            maps = self.net.head(self._features(crop), template)[0]
            return answer_of(maps.cpu().numpy())

    def _features(self, crop: np.ndarray) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(crop[None]).to(self.device)
            return self.net.backbone(pixels.permute(0, 3, 1, 2).float())  # takes [1, 3, S, S]


def torch_network(net: nn.Module, device: str = "auto", precision: str = "float32") -> TorchNetwork:
    """RB-SF 2 in PyTorch, on `device`: a torch device's name, or "auto" (a GPU if there is one).

    Raises ValueError for a missing device, and for a precision other than "float32".
    """
    from rbsf.train.device import choose_device

    if precision != "float32":
        raise ValueError(
            f"--precision {precision}: RB-SF 2 counts in whole numbers, which need float32;"
            " leave it out"
        )
    return TorchNetwork(net.to(choose_device(device)))


def try_network(network: Network) -> Answer:
    """A network's answer for empty crops. An unfit network raises RuntimeError or ValueError."""
    exemplar, region = (
        np.zeros((size, size, 3), np.uint8) for size in (EXEMPLAR_SIZE, SEARCH_SIZE)
    )
    return network.answer(network.learn(exemplar), region)


def answer_of(maps: np.ndarray) -> Answer:
    """Convert the head's maps `[5 or 6, rows, columns]` to an answer.

    The maps are logits of the target, logs of the distances to its four sides and, if there are
    six, logits of presence. Raises ValueError for another shape.
    """
    if maps.ndim != 3 or len(maps) not in MAPS:
        raise ValueError(f"it gives {maps.shape}, expected (5 or 6, rows, columns)")
    wide = maps.astype(np.float64)
    return Answer(_sigmoid(wide[0]), np.exp(wide[1:5]))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
