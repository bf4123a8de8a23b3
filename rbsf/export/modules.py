"""The modules, and the calls in a network's `forward`, that the exporter supports.

Each is turned into nodes; arrays stay float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx, nn

from rbsf.export.instead import advice_for
from rbsf.layers import BinaryConv2d
from rbsf.models.rbsf2 import Correlation, Sums
from rbsf.models.whole import STEP, Round, Shift, Slope, Stem, WholeConv, WholeNorm

# Two operations that the engine does not have; `rbsf.export.fold` replaces them.
BINARY = "binary"  # a complete BinaryConv2d
TEMPLATE = "template"  # a 1 x 1 convolution with a template; nothing is folded into it


class Made(NamedTuple):
    """A node without a name and inputs; its arrays are float64."""

    op: str
    attributes: dict[str, Any]
    tensors: dict[str, np.ndarray]


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy of `tensor` in float64."""
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
    attributes = _window(module) | {"groups": module.groups}
    return Made("conv", attributes, {"weight": weight, "bias": _bias(module)})


def _bias(module: nn.Conv2d | nn.Linear) -> np.ndarray:
    """The bias `[O]` of a layer; zeros if it has none."""
    if module.bias is not None:
        return to_numpy(module.bias)
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return np.zeros(outputs)


def _binary(module: BinaryConv2d) -> Made:
    """A binary convolution that reads the signs of `in_scale * x + in_bias + shift`."""
    terms = module.terms()
    shifts, bits = distinct([to_numpy(term.shift) for term in terms])
    kernels, numbers = distinct([pack_kernels(to_numpy(term.signs)) for term in terms])
    attributes = _window(module) | {
        "groups": module.groups,
        "channels": module.in_channels,
        "border": int(module.border),
        "bits": bits,
        "kernels": numbers,
        "K": module.input_scale,
    }
    tensors = {
        "weight": np.stack(kernels),
        "scale": np.stack([to_numpy(term.scale) for term in terms]),
        "bias": _bias(module),
        "in_scale": np.ones(module.in_channels),
        "in_bias": np.zeros(module.in_channels),
        "shift": np.stack(shifts),
    }
    return Made(BINARY, attributes, tensors)


def distinct(arrays: list[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """The distinct arrays among `arrays`, and for each array its index among these."""
    found: dict[bytes, np.ndarray] = {}
    numbers: dict[bytes, int] = {}
    for array in arrays:
        key = array.tobytes()
        found.setdefault(key, array)
        numbers.setdefault(key, len(numbers))
    return list(found.values()), [numbers[array.tobytes()] for array in arrays]


def pack_kernels(signs: np.ndarray) -> np.ndarray:
    """Pack kernels `[O, I/g, k, k]` into uint8 `[O, bytes]`, in the engine's order.

    Bits are 1 where `signs` is above 0.
    """
    rows = signs.transpose(0, 2, 3, 1).reshape(len(signs), -1)
    return np.packbits(rows > 0, axis=1, bitorder="little")


def _norm(module: Any) -> Made:
    if module.running_mean is None or module.running_var is None:
        raise ValueError("has no running statistics")
    variance = to_numpy(module.running_var)
    weight = np.ones_like(variance) if module.weight is None else to_numpy(module.weight)
    bias = np.zeros_like(variance) if module.bias is None else to_numpy(module.bias)
    scale = weight / np.sqrt(variance + module.eps)
    bias = bias - scale * to_numpy(module.running_mean)
    return Made("affine", {}, {"scale": scale, "bias": bias})


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
    """Turn 2.0 into 2, also in a tuple; values that are not whole are unchanged."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_whole_numbers, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sums(module: Sums) -> Made:
    """A binary convolution with unscaled sums."""
    made = _binary(module.conv)
    ones = np.ones_like(made.tensors["scale"])
    return made._replace(tensors=made.tensors | {"scale": ones})


def _rounded_conv(module: WholeConv | Stem) -> Made:
    """A convolution with rounded weights.

    The weights are whole multiples of powers of two, and float32 can hold their sums exactly.
    """
    weight, bias = (to_numpy(part) for part in module.rounded())
    return _conv(module)._replace(tensors={"weight": weight.transpose(0, 2, 3, 1), "bias": bias})


def _correlation(module: Correlation) -> Made:
    if module.fixed is None:
        raise ValueError("is a correlation without a template")
    template = to_numpy(module.fixed)[0]  # [C, k, k]
    cells = template.reshape(len(template), -1).T  # [k * k, C]
    weight = np.ascontiguousarray(cells[:, None, None])  # [k * k, 1, 1, C]
    window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
    return Made(TEMPLATE, window, {"weight": weight, "bias": np.zeros(len(weight))})


def _whole_norm(module: WholeNorm) -> Made:
    scale, bias = (to_numpy(part) for part in module.folded())
    return Made("affine", {}, {"scale": scale, "bias": bias})


def _shift(module: Shift) -> Made:
    bias = to_numpy(module.bias)
    return Made("affine", {}, {"scale": np.ones_like(bias), "bias": bias})


def _round(module: Round) -> list[Made]:
    """Scaling to steps, rounding, and scaling back; `rbsf.export.whole` removes the scales."""
    to_steps = Made("affine", {}, {"scale": np.array([1 / STEP])})
    rounded = Made("round", {"limit": module.limit}, {})
    back = Made("affine", {}, {"scale": np.array([STEP])})
    return [to_steps, rounded, back]


def _hardtanh(module: nn.Hardtanh) -> Made:
    return Made("hardtanh", {"low": float(module.min_val), "high": float(module.max_val)}, {})


# The first matching class is used, so a subclass must stand before its base.
FORMS: dict[type[nn.Module], Callable[[Any], Made | list[Made]]] = {
    BinaryConv2d: _binary,
    Sums: _sums,
    WholeConv: _rounded_conv,
    Stem: _rounded_conv,
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
    nn.Hardtanh: _hardtanh,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Flatten: _flatten,
    nn.Sigmoid: lambda module: Made("sigmoid", {}, {}),
    nn.Upsample: _upsample,
}
SAME = (nn.Identity, nn.Dropout, nn.Dropout2d)  # modules that return their input unchanged
VIEWS = (*SAME, nn.Flatten)  # modules that return their input or a view of it
# Modules that a trace does not look into.
LEAVES = (BinaryConv2d, Sums, WholeConv, Stem, Correlation, WholeNorm, Shift, Slope, Round)


def binary_part(module: nn.Module) -> BinaryConv2d | None:
    """The binary convolution that a traced module is or contains; else None."""
    if isinstance(module, Sums):
        return module.conv
    return module if isinstance(module, BinaryConv2d) else None


def make(module: nn.Module) -> list[Made]:
    """The nodes of a module, one after another.

    Raises ValueError that names the part of the module without a packed form.
    """
    made = _form_of(module)(module)
    parts = [made] if isinstance(made, Made) else made
    arrays = [array for part in parts for array in part.tensors.values()]
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("holds values that are not finite")
    return parts


def _form_of(module: nn.Module) -> Callable[[Any], Made | list[Made]]:
    for kind, form in FORMS.items():
        if isinstance(module, kind):
            return form
    if advice := advice_for(type(module).__name__):
        raise ValueError(f"is a {type(module).__name__}, which has none: {advice}")
    common = [kind for kind in FORMS if not kind.__module__.startswith("rbsf.models")]
    known = ", ".join(kind.__name__ for kind in common)
    fault = f"is a {type(module).__name__}; expected one of {known}"
    raise ValueError(f"{fault} (docs/operations.md: how to add one)")


# ---- calls in a network's forward


VIEW_CALLS = ("dropout", "flatten", "view", "reshape", "contiguous", "detach")
# Functions that may work in place, and the position of `inplace` among their arguments.
INPLACE_PLACES = {"relu": 1, "relu6": 1, "hardtanh": 3, "dropout": 3}
# Python's operators that change their first operand, such as `x += y`.
OPERATORS = (
    *("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"),
    *("iand", "ior", "ixor", "ilshift", "irshift"),
)
SIZES = ("size", "getattr", "getitem")  # x.size(0), x.shape[0]: used when a map is flattened
SUMS, PRODUCTS = ("add", "iadd", "add_"), ("mul", "imul", "mul_")
# The operation of each call that takes two maps.
OF_TWO = dict.fromkeys(SUMS, "add") | dict.fromkeys(PRODUCTS, "mul")
CONCATENATIONS = ("cat", "concat", "concatenate")  # calls that join a list of maps by channels


def target_of(node: fx.Node) -> str:
    """The name of the function, method or module that a traced node calls."""
    if isinstance(node.target, str):
        return node.target
    return getattr(node.target, "__name__", str(node.target))


def is_in_place(node: fx.Node) -> bool:
    """Whether a call writes into its first argument.

    `relu_` and `+=` do so, and functions with a true `inplace` argument.
    """
    target = target_of(node)
    if target.endswith("_") or target in OPERATORS:
        return True
    if node.kwargs.get("inplace", False):
        return True
    place = INPLACE_PLACES.get(target, len(node.args))
    return node.op == "call_function" and any(node.args[place : place + 1])


def concatenated(node: fx.Node) -> list[fx.Node] | None:
    """The maps that a call joins along their channels; None for any other call."""
    if target_of(node) not in CONCATENATIONS:
        return None
    maps = _argument(node.args, node.kwargs, 0, "tensors")
    axis = _argument(node.args, node.kwargs, 1, "dim", 0)
    if not isinstance(maps, (list, tuple)) or axis not in (1, -3) or "out" in node.kwargs:
        return None
    return [*maps] if all(isinstance(value, fx.Node) for value in maps) else None


def _argument(args: tuple, kwargs: dict, place: int, name: str, default: Any = None) -> Any:
    """The argument that a call gets at position `place` or by `name`."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def as_modules(node: fx.Node) -> list[nn.Module] | None:
    """The modules equivalent to a call with one map; None if the call is not supported."""
    target, args, kwargs = target_of(node), node.args[1:], node.kwargs
    if _is_flattening(target, args, kwargs):
        return [nn.Flatten()]
    if target == "mean" and _is_global(args, kwargs):
        kept = _argument(args, kwargs, 1, "keepdim", False)
        return [nn.AdaptiveAvgPool2d(1)] if kept else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if target in INPLACE_PLACES:
        args = args[: INPLACE_PLACES[target] - 1]
    if target not in CALLS or len(args) > 4:  # F.max_pool2d and MaxPool2d differ in the fifth
        return None
    options = {name: value for name, value in kwargs.items() if name != "inplace"}
    try:
        return [CALLS[target](*args, **options)]
    except TypeError:
        return None


def _is_flattening(target: str, args: tuple, kwargs: dict) -> bool:
    """Whether a call turns maps into vectors, as `nn.Flatten` does."""
    if target == "flatten":
        return (args, kwargs) in (((1,), {}), ((), {"start_dim": 1}))
    if target not in ("view", "reshape") or len(args) != 2:
        return False
    return args[1] == -1 and args[0] != -1


def _is_global(args: tuple, kwargs: dict) -> bool:
    """Whether a mean is taken over height and width."""
    dims = _argument(args, kwargs, 0, "dim")
    return isinstance(dims, (list, tuple)) and sorted(d % 4 for d in dims) == [2, 3]


def _dropout(p: float = 0.5, training: bool = True) -> nn.Module:
    if training:
        raise TypeError("F.dropout without training=self.training drops values even in eval mode")
    return nn.Dropout(0)


def _interpolate(
    size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> nn.Module:
    """The module for F.interpolate; further arguments have no effect in the mode "nearest"."""
    return nn.Upsample(size, scale_factor, mode)


CALLS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardtanh_": nn.Hardtanh,
    "clamp": lambda min, max: nn.Hardtanh(min, max),  # needs both: no node has one bound
    "clamp_": lambda min, max: nn.Hardtanh(min, max),
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "dropout": _dropout,
    "sigmoid": nn.Sigmoid,
    "interpolate": _interpolate,
}
