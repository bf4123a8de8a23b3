"""How far a packed network and PyTorch agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rbsf.engine.network import Network
from rbsf.engine.node_reference import take_bits
from rbsf.layers import BinaryConv2d, binary_layers
from rbsf.node_forms import distinct, to_numpy


@dataclass(frozen=True)
class Agreement:
    """How a packed network and PyTorch agree on some images."""

    bits: int  # that the binary convolutions took
    differing: int  # of them
    logits: float  # largest difference
    predictions: int  # that differ
    largest: float  # of PyTorch's logits

    def __str__(self) -> str:
        return (
            f"bits that differ: {self.differing:,} of {self.bits:,}; logits: by {self.logits:.2g} of {self.largest:.2g}"
            f" at most; predictions that differ: {self.predictions}"
        )


@torch.inference_mode()
def compare(
    net: nn.Module, network: Network, images: np.ndarray, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> Agreement:
    """Run both on `images` uint8 [N, H, W, C]; mean and std as in `network_nodes`.

    A bit may differ where float32 rounds a value next to its threshold to the other side: PyTorch and the engine add
    in different orders, and the engine's sums of +-1 and its thresholds are exact where PyTorch rounds sums of +-scale
    and the batch-norm.  That shows where batch-norms are fresh: whole sums then lie on their thresholds.  One bit
    alters what follows.
    """
    taken: dict[str, np.ndarray] = {}
    layers = binary_layers(net)
    hooks = [layer.register_forward_pre_hook(_recorder(name, taken)) for name, layer in layers.items()]
    expected = torch_logits(net, images, mean, std)
    for hook in hooks:
        hook.remove()
    found = network.outputs(images)
    differing = 0
    for node in network.model.nodes:
        if node.op == "conv_bits":
            differing += int((take_bits(node, found[node.inputs[0]]) != taken[node.name]).sum())
    logits = found[network.model.nodes[-1].name]
    wrong = (logits.argmax(-1) != expected.argmax(-1)).sum()
    bits = sum(part.size for part in taken.values())
    return Agreement(bits, differing, float(np.abs(logits - expected).max()), int(wrong), float(np.abs(expected).max()))


@torch.inference_mode()
def torch_logits(net: nn.Module, images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Logits float32 [N, classes] of `net`, in its own dtype, for images uint8 [N, H, W, C]."""
    middle, spread = (np.broadcast_to(np.asarray(v, np.float32), images.shape[-1:]) for v in (mean, std))
    pixels = torch.from_numpy((images - middle) / spread).permute(0, 3, 1, 2).contiguous()
    return net(pixels.to(next(net.parameters()).dtype)).float().numpy()


def _recorder(name: str, taken: dict[str, np.ndarray]) -> Callable:
    """A hook that keeps the bits a binary layer takes, uint8 [B, N, H, W, I], under the name of its node."""

    def record(layer: BinaryConv2d, inputs: tuple[Tensor]) -> None:
        x, key = layer.norm(inputs[0]), name
        while key in taken:  # as for a module that is called twice
            key += "'"
        shifts = distinct([to_numpy(term.shift) for term in layer.terms()])[0]
        shifted = [x + torch.from_numpy(shift).to(x.dtype)[:, None, None] for shift in shifts]
        taken[key] = np.stack([(part >= 0).permute(0, 2, 3, 1).numpy() for part in shifted]).astype(np.uint8)

    return record
