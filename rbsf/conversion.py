"""Any network as a 1-bit one: `binarize` puts a method's layers into it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from rbsf.layers import why_unfit
from rbsf.methods import get_method


@dataclass(frozen=True)
class Change:
    """What `binarize` did with one convolution: `kept` is the reason it stayed real, empty where it
    was changed.
    """

    name: str
    weights: int
    kept: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.weights:,} weights, " + (
            f"real ({self.kept})" if self.kept else "1 bit"
        )


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
    """Turn the convolutions of any `model` into binary ones of `method`, in place, and say what was
    done.

    What stays real: the first convolution, 1x1 convolutions, those named in `skip`, and everything
    that is no Conv2d.  Weights are kept as latent filters, biases as they are, real.  `input_norm`:
    see `BinaryConv2d`; switch it off for a network that already normalises the input of its
    convolutions and has no ReLU there.  `options` are the method's own. Raises ValueError for an
    unknown method or option, a name in `skip` that is no convolution, a padding that binary
    convolutions do not have, or nothing left to change; `model` is then as it was.
    """
    layer = get_method(method)
    convs = {name: m for name, m in model.named_modules() if type(m) is nn.Conv2d}
    skip = set(skip)
    if unknown := skip - convs.keys():
        raise ValueError(
            f"no convolution named {', '.join(sorted(unknown))}; there are {', '.join(convs) or 'none'}"
        )
    changes = []
    for position, (name, conv) in enumerate(convs.items()):
        kept = _reason_to_keep(conv, skip_first and position == 0, skip_1x1, name in skip)
        changes.append(Change(name, conv.weight.numel(), kept))
        if not kept and (reason := why_unfit(conv)):
            raise ValueError(f"convolution {name}: {reason}; name it in skip or change its padding")
    if all(change.kept for change in changes):
        raise ValueError(
            f"nothing to binarize: {len(convs)} convolutions, all kept real by the rules"
        )
    made = {
        c.name: layer.from_conv(convs[c.name], input_norm, options) for c in changes if not c.kept
    }
    for name, conv in made.items():
        model.set_submodule(name, conv)
    return changes


def _reason_to_keep(conv: nn.Conv2d, first: bool, skip_1x1: bool, named: bool) -> str:
    if first:
        return "first convolution"
    if named:
        return "named in skip"
    if skip_1x1 and conv.kernel_size == (1, 1):
        return "1x1"
    return ""
