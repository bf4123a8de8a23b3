"""What modules, and calls in a network's forward, the exporter knows, and the node of each; arrays
stay float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from rbsf.layers import BinaryConv2d
from rbsf.models.rbsf2 import Correlation, Sums
from rbsf.models.whole import STEP, Round, Shift, Slope, WholeConv, WholeNorm

BINARY = "binary"  # a whole BinaryConv2d: no operation of the engine; `rbsf.export.fold` makes nodes of it

TEMPLATE = "template"  # a 1 x 1 convolution with a template, which nothing is folded into


class Made(NamedTuple):
    """A node without a name and inputs."""

    op: str
    attributes: dict[str, Any]
    tensors: dict[str, np.ndarray]


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy in float64."""
    return tensor.detach().cpu().double().numpy()


# ---- modules


def _one(name: str, value: Any) -> int:
    """A size that is the same in both directions."""
    sizes = {*value} if isinstance(value, (tuple, list)) else {value}
    if len(sizes) != 1 or not all(type(n) is int for n in sizes):
        raise ValueError(f"has {name} {value}, expected one whole number")
    return int(sizes.pop())


def _window(module: Any) -> dict[str, Any]:
    if "dilation" in vars(module) and _one("dilation", module.dilation) != 1:
        raise ValueError(f"has dilation {module.dilation}, expected 1")
    names = {"kernel_size": "kernel", "stride": "stride", "padding": "padding"}
    return {ours: _one(theirs, getattr(module, theirs)) for theirs, ours in names.items()}


def _conv(module: nn.Conv2d) -> Made:
    if module.padding_mode != "zeros":
        raise ValueError(f"has padding_mode {module.padding_mode!r}, expected zeros")
    weight = to_numpy(module.weight).transpose(0, 2, 3, 1)
    return Made(
        "conv",
        _window(module) | {"groups": module.groups},
        {"weight": weight, "bias": _bias(module)},
    )


def _bias(module: nn.Conv2d | nn.Linear) -> np.ndarray:
    """The bias [O] of a layer, zeros where it has none."""
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return np.zeros(outputs) if module.bias is None else to_numpy(module.bias)


def _binary(module: BinaryConv2d) -> Made:
    """Its bits are those of ``in_scale * x + in_bias + shift``."""
    terms = module.terms()
    shifts, bits = distinct([to_numpy(term.shift) for term in terms])
    kernels, numbers = distinct([pack_kernels(to_numpy(term.signs)) for term in terms])
    tensors = {
        "weight": np.stack(kernels),
        "scale": np.stack([to_numpy(term.scale) for term in terms]),
        "bias": _bias(module),
        "in_scale": np.ones(module.in_channels),
        "in_bias": np.zeros(module.in_channels),
        "shift": np.stack(shifts),
    }
    geometry = {
        "groups": module.groups,
        "channels": module.in_channels,
        "border": int(module.border),
    }
    return Made(
        BINARY,
        _window(module) | geometry | {"bits": bits, "kernels": numbers, "K": module.input_scale},
        tensors,
    )


def distinct(arrays: list[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """The different ones of `arrays`, and the number of each array among them."""
    found: dict[bytes, tuple[int, np.ndarray]] = {}
    numbers = [found.setdefault(array.tobytes(), (len(found), array))[0] for array in arrays]
    return [array for _, array in found.values()], numbers


def pack_kernels(signs: np.ndarray) -> np.ndarray:
    """Kernels [O, I/g, k, k], bits 1 where they are above 0, as uint8 [O, bytes] in the engine's
    order.
    """
    return np.packbits(
        signs.transpose(0, 2, 3, 1).reshape(len(signs), -1) > 0, axis=1, bitorder="little"
    )


def _norm(module: Any) -> Made:
    if module.running_mean is None or module.running_var is None:
        raise ValueError("has no running statistics")
    ones = torch.ones_like(module.running_var)
    weight, bias = (
        to_numpy(v if v is not None else d)
        for v, d in ((module.weight, ones), (module.bias, 0 * ones))
    )
    scale = weight / np.sqrt(to_numpy(module.running_var) + module.eps)
    return Made(
        "affine", {}, {"scale": scale, "bias": bias - scale * to_numpy(module.running_mean)}
    )


def _linear(module: nn.Linear) -> Made:
    return Made("linear", {}, {"weight": to_numpy(module.weight), "bias": _bias(module)})


def _max_pool(module: nn.MaxPool2d) -> Made:
    if module.return_indices:
        raise ValueError("returns indices too")
    return Made("max_pool", _window(module) | {"ceil": bool(module.ceil_mode)}, {})


def _avg_pool(module: nn.AvgPool2d) -> Made:
    if module.divisor_override is not None:
        raise ValueError("has a divisor_override, expected none")
    counted = {"ceil": bool(module.ceil_mode), "include_pad": bool(module.count_include_pad)}
    return Made("avg_pool", _window(module) | counted, {})


def _global_pool(module: nn.AdaptiveAvgPool2d) -> Made:
    if _one("output_size", module.output_size) != 1:
        raise ValueError(f"has output_size {module.output_size}, expected 1")
    return Made("global_pool", {}, {})


def _flatten(module: nn.Flatten) -> Made:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise ValueError(f"flattens from {module.start_dim} to {module.end_dim}, expected 1 to -1")
    return Made("flatten", {}, {})


def _upsample(module: nn.Upsample) -> Made:
    factor = _one("scale_factor", _whole_numbers(module.scale_factor))
    if module.mode != "nearest":
        raise ValueError(f"has mode {module.mode!r}, expected 'nearest'")
    return Made("upsample", {"factor": factor}, {})


def _whole_numbers(value: Any) -> Any:
    """2.0 as 2, also in a tuple; what is not whole stays."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_whole_numbers, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sums(module: Sums) -> Made:
    made = _binary(module.conv)
    return made._replace(tensors=made.tensors | {"scale": np.ones_like(made.tensors["scale"])})


def _rounded_conv(module: WholeConv) -> Made:
    """Its rounded weights: whole multiples of powers of two, whose sums float32 holds exactly."""
    made, (weight, bias) = _conv(module), module.rounded()
    return made._replace(
        tensors={"weight": to_numpy(weight).transpose(0, 2, 3, 1), "bias": to_numpy(bias)}
    )


def _correlation(module: Correlation) -> Made:
    if module.fixed is None:
        raise ValueError("is a correlation without a template")
    weight = (
        to_numpy(module.fixed)[0].reshape(module.fixed.shape[1], -1).T[:, None, None]
    )  # [cells, 1, 1, C]
    window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
    return Made(
        TEMPLATE, window, {"weight": np.ascontiguousarray(weight), "bias": np.zeros(len(weight))}
    )


def _whole_norm(module: WholeNorm) -> Made:
    scale, bias = (to_numpy(part) for part in module.folded())
    return Made("affine", {}, {"scale": scale, "bias": bias})


def _shift(module: Shift) -> Made:
    bias = to_numpy(module.bias)
    return Made("affine", {}, {"scale": np.ones_like(bias), "bias": bias})


def _round(module: Round) -> list[Made]:
    """To steps, rounded, and back: `rbsf.export.whole` takes the scales away."""
    scales = [Made("affine", {}, {"scale": np.array([scale])}) for scale in (1 / STEP, STEP)]
    return [scales[0], Made("round", {"limit": module.limit}, {}), scales[1]]


# The first class that fits wins: a subclass stands before its base.
FORMS: dict[type[nn.Module], Callable[[Any], Made | list[Made]]] = {
    BinaryConv2d: _binary,
    Sums: _sums,
    WholeConv: _rounded_conv,
    Correlation: _correlation,
    WholeNorm: _whole_norm,
    Shift: _shift,
    Slope: lambda module: Made("prelu", {}, {"slope": to_numpy(module.slopes())}),
    Round: _round,
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _norm,
    nn.BatchNorm1d: _norm,
    nn.Linear: _linear,
    nn.ReLU: lambda module: Made("relu", {}, {}),
    nn.PReLU: lambda module: Made("prelu", {}, {"slope": to_numpy(module.weight)}),
    nn.Hardtanh: lambda module: Made(
        "hardtanh", {"low": float(module.min_val), "high": float(module.max_val)}, {}
    ),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Flatten: _flatten,
    nn.Sigmoid: lambda module: Made("sigmoid", {}, {}),
    nn.Upsample: _upsample,
}
SAME = (nn.Identity, nn.Dropout, nn.Dropout2d)  # modules that give their input itself
VIEWS = (*SAME, nn.Flatten)  # ... or a view of it


LEAVES = (
    BinaryConv2d,
    Sums,
    WholeConv,
    Correlation,
    WholeNorm,
    Shift,
    Slope,
    Round,
)  # what a trace does not look into


def binary_part(module: nn.Module) -> BinaryConv2d | None:
    """The binary convolution that a module of the trace is, or has."""
    return (
        module.conv
        if isinstance(module, Sums)
        else module
        if isinstance(module, BinaryConv2d)
        else None
    )


def make(module: nn.Module) -> list[Made]:
    """The nodes of a module, one after another; ValueError that says what of it has no packed form."""
    form = next((form for kind, form in FORMS.items() if isinstance(module, kind)), None)
    if form is None:
        known = ", ".join(
            kind.__name__ for kind in FORMS if not kind.__module__.startswith("rbsf.models")
        )
        raise ValueError(
            f"is a {type(module).__name__}; expected one of {known} (CONTRIBUTING.md: how to add one)"
        )
    made = form(module)
    parts = [made] if isinstance(made, Made) else made
    if not all(np.isfinite(array).all() for part in parts for array in part.tensors.values()):
        raise ValueError("holds values that are not finite")
    return parts


# ---- calls in a network's forward


VIEW_CALLS = ("dropout", "flatten", "view", "reshape", "contiguous", "detach")
LAST_MAY_BE_INPLACE = {
    "relu": 1,
    "relu6": 1,
    "hardtanh": 3,
    "dropout": 3,
}  # its place among the arguments
SIZES = ("size", "getattr", "getitem")  # x.size(0), x.shape[0]: what a flattening asks for
SUMS, PRODUCTS = ("add", "iadd", "add_"), ("mul", "imul", "mul_")
OF_TWO = dict.fromkeys(SUMS, "add") | dict.fromkeys(
    PRODUCTS, "mul"
)  # calls of two maps: the operation
CONCATENATIONS = ("cat", "concat", "concatenate")  # of a list of maps, along their channels


def target_of(node: fx.Node) -> str:
    """The name of what a node of the trace calls."""
    return (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", str(node.target))
    )


def is_in_place(node: fx.Node) -> bool:
    """Whether a call writes into its first argument: `relu_`, `+=`, and functions that are told to."""
    target = target_of(node)
    if target.endswith("_") or target in ("iadd", "imul"):
        return True
    place = LAST_MAY_BE_INPLACE.get(target, len(node.args))
    return bool(node.kwargs.get("inplace", False)) or (
        node.op == "call_function" and any(node.args[place : place + 1])
    )


def concatenated(node: fx.Node) -> list[fx.Node] | None:
    """The maps that a call puts together along their channels, None for another call."""
    if target_of(node) not in CONCATENATIONS:
        return None
    maps = node.args[0] if node.args else node.kwargs.get("tensors")
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    whole = isinstance(maps, (list, tuple)) and all(isinstance(value, fx.Node) for value in maps)
    return [*maps] if whole and axis in (1, -3) else None  # type: ignore[misc, list-item]


def as_modules(node: fx.Node) -> list[nn.Module] | None:
    """The modules that do what a call of one map does, None for a call that is not known."""
    target, args, kwargs = target_of(node), node.args[1:], node.kwargs
    flatten = target == "flatten" and (args, kwargs) in (((1,), {}), ((), {"start_dim": 1}))
    if flatten or (
        target in ("view", "reshape") and len(args) == 2 and args[1] == -1 and args[0] != -1
    ):
        return [nn.Flatten()]
    if target == "mean" and _is_global(args, kwargs):
        keep = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
        return [nn.AdaptiveAvgPool2d(1), *([] if keep else [nn.Flatten()])]
    if target in LAST_MAY_BE_INPLACE:
        args = args[: LAST_MAY_BE_INPLACE[target] - 1]
    if target in CALLS and len(args) <= 4:  # from there on F.max_pool2d's order is not MaxPool2d's
        try:
            return [CALLS[target](*args, **{k: v for k, v in kwargs.items() if k != "inplace"})]
        except TypeError:
            return None
    return None


def _is_global(args: tuple, kwargs: dict) -> bool:
    dims = kwargs.get("dim", args[0] if args else None)
    return isinstance(dims, (list, tuple)) and sorted(d % 4 for d in dims) == [2, 3]


def _dropout(p: float = 0.5, training: bool = True) -> nn.Module:
    if training:
        raise TypeError("F.dropout without training=self.training drops values even in eval mode")
    return nn.Dropout(0)


def _interpolate(
    size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> nn.Module:  # what else it has does nothing in this mode
    return nn.Upsample(size, scale_factor, mode)


CALLS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardtanh_": nn.Hardtanh,
    "clamp": lambda min, max: nn.Hardtanh(min, max),  # both: a bound of one side has no node
    "clamp_": lambda min, max: nn.Hardtanh(min, max),
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "dropout": _dropout,
    "sigmoid": nn.Sigmoid,
    "interpolate": _interpolate,
}
