"""Turns any network into a 1-bit one: `binarize` puts a method's layers into it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from rbsf.layers import why_unfit
from rbsf.methods import get_method


@dataclass(frozen=True)
class Change:
    """What `binarize` did with one convolution.

    `kept` is the reason why it stayed real; it is empty if the convolution became binary.
    """

    name: str
    weights: int
    kept: str = ""

    def __str__(self) -> str:
        result = f"real ({self.kept})" if self.kept else "1 bit"
        return f"{self.name}: {self.weights:,} weights, {result}"


def binarize(
    model: nn.Module,
    method: str = "rbcn",
    *,
    skip_first: bool = True,
    skip_1x1: bool = True,
    skip: Iterable[str] = (),
    input_norm: bool = True,
    options: dict[str, Any] | None = None,
) -> list[Change]:
    """Replace convolutions of `model` by binary ones of `method`, in place; returns the changes.

    The first convolution, 1x1 convolutions, convolutions named in `skip`, and layers other than
    Conv2d stay real. Weights become latent filters; biases are kept and stay real. `input_norm` is
    described in `BinaryConv2d`: switch it off for a network that already normalises the input of
    its convolutions and has no ReLU there. `options` are the method's own.

    Other layers are left as they are, even if a packed file cannot hold them. To export the network
    later, call `rbsf.export.check.check_exportable(model, (H, W, C))` before training it: the
    message names the first such layer, where it is called, and what to use instead.

    Raises ValueError for an unknown method or option, a name in `skip` that is not a convolution, a
    padding that binary convolutions do not have, or if no convolution is left to change. The model
    is unchanged in these cases.
    """
    layer = get_method(method)
    convs = {name: m for name, m in model.named_modules() if type(m) is nn.Conv2d}
    kept = _kept_real(convs, skip_first, skip_1x1, set(skip))
    changed = {name: conv for name, conv in convs.items() if name not in kept}
    _check_fit(changed)
    if not changed:
        raise ValueError(
            f"nothing to binarize: {len(convs)} convolutions, all kept real by the rules"
        )
    made = {name: layer.from_conv(conv, input_norm, options) for name, conv in changed.items()}
    for name, conv in made.items():
        model.set_submodule(name, conv)
    return [Change(name, conv.weight.numel(), kept.get(name, "")) for name, conv in convs.items()]


def _kept_real(
    convs: dict[str, nn.Conv2d], skip_first: bool, skip_1x1: bool, skip: set[str]
) -> dict[str, str]:
    """The names among `convs` that stay real, with the reason.

    Raises ValueError if `skip` has a name that is not a convolution.
    """
    if unknown := skip - convs.keys():
        names = ", ".join(sorted(unknown))
        raise ValueError(f"no convolution named {names}; there are {', '.join(convs) or 'none'}")
    kept: dict[str, str] = {}  # a stronger reason replaces a weaker one
    if skip_1x1:
        kept |= {name: "1x1" for name, conv in convs.items() if conv.kernel_size == (1, 1)}
    kept |= dict.fromkeys(skip, "named in skip")
    if skip_first and convs:
        kept[next(iter(convs))] = "first convolution"
    return kept


def _check_fit(convs: dict[str, nn.Conv2d]) -> None:
    """Raise ValueError for the first of `convs` that cannot become binary."""
    for name, conv in convs.items():
        if reason := why_unfit(conv):
            raise ValueError(f"convolution {name}: {reason}; name it in skip or change its padding")
