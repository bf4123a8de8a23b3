"""Weights files.

A file, .safetensors, holds an inference network: of binary convolutions one bit a weight, rows of
`numpy.packbits` per filter, and a float32 scale per channel; the rest as float32.  Metadata:
`format`, `model` and `options` (JSON) to build it by (see `rbsf.models`), `info` (JSON). Of a
binary convolution `name` with T terms and M kernels there are `name.bits` [M, O, bytes],
`name.scale` [T, O] and, unless it is zero, `name.shift` [T, I]; term t has kernel t % M.  Where T
is 1, the leading dimension is left out.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rbsf.engine.file import kind_of
from rbsf.layers import BinaryConv2d, Term, binary_layers, distinct_signs
from rbsf.models import MODELS, build
from rbsf.system.files import write_atomically

FORMAT = "rbsf-weights-1"


def save_weights(
    net: nn.Module, model: str, path: str | Path, info: dict[str, Any] | None = None
) -> None:
    """Write `net`, built as `model` (its `model_options` go along), for inference.

    Raises OSError where `path` cannot be written.
    """
    tensors = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, layer in binary_layers(net).items():
        for key in [k for k in tensors if k.rpartition(".")[0] == name]:
            del tensors[key]
        tensors |= {f"{name}.{key}": tensor for key, tensor in _pack(layer).items()}
    options = getattr(net, "model_options", {})
    metadata = {"format": FORMAT, "model": model, "info": json.dumps(info or {})}
    if options:
        metadata["options"] = json.dumps(options)
    if borders := {
        name: layer.border for name, layer in binary_layers(net).items() if layer.border != -1
    }:
        metadata["borders"] = json.dumps(borders)
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)
    write_atomically(path, data)


def load_weights(path: str | Path) -> tuple[nn.Module, str, dict[str, Any]]:
    """Read a weights file: the network in eval mode, the name of its model, and the info saved with
    it.

    Raises FileNotFoundError, or ValueError in one line for a file that is cut off, holds values
    that are not finite, or is of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights end in .safetensors, not {path.suffix!r}")
    net, model, info = _read_own(path)
    return checked(net, path), model, info


def checked(net: nn.Module, path: Path) -> nn.Module:
    """The network of a file in eval mode; ValueError where a value is not finite."""
    for name, tensor in net.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {name} holds values that are not finite; copy or train it again"
            )
    return net.eval()


def read_torch(path: str | Path, what: str, advice: str) -> Any:
    """What `torch.save` wrote, onto the CPU and without running code of the file.

    Raises ValueError in one line, "not a whole `what`" or "holds pickled code", which ends in
    `advice`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of pickle protocols; where they matter an error follows
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's parser raises anything on damaged bytes
        if isinstance(error, pickle.UnpicklingError) and _is_code(Path(path), str(error)):
            raise ValueError(f"{path}: holds pickled code, which is not loaded; {advice}") from None
        raise ValueError(f"{path}: not a whole {what} ({first_line(error)}); {advice}") from None


def _is_code(path: Path, refusal: str) -> bool:
    """Did torch refuse a real pickle, not damaged bytes?

    Of those of protocol 4 and newer, Python's own, it reads none: it stops at operand 149, which
    opens them.
    """
    with path.open("rb") as file:
        whole = file.read(3) in (b"\x80\x04\x95", b"\x80\x05\x95", b"PK\x03")
    return "GLOBAL" in refusal or (whole and "operand 149\n" in refusal)


def _pack(layer: BinaryConv2d) -> dict[str, Tensor]:
    """The terms of `layer` as they are in a file, by the last part of the name."""
    terms = layer.terms()
    positive = torch.stack(distinct_signs(terms)).flatten(2) > 0  # [M, O, I/g * k * k]
    tensors = {
        "bits": torch.from_numpy(np.packbits(positive.cpu().numpy(), axis=-1)),
        "scale": torch.stack([term.scale for term in terms]).float(),
        "shift": torch.stack([term.shift for term in terms]).float(),
    }
    if not tensors["shift"].any():
        del tensors["shift"]
    return {key: tensor[0] if len(terms) == 1 else tensor for key, tensor in tensors.items()}


def _unpack(layer: BinaryConv2d, tensors: dict[str, Tensor]) -> None:
    """Put the `tensors` of a file into `layer`; ValueError where they are no such tensors."""
    expected = layer.terms()
    count, kernels, shape = len(expected), len(distinct_signs(expected)), expected[0].signs.shape
    columns = shape[1:].numel()
    several = slice(1 if count == 1 else 0, None)  # leaves the leading dimension out
    sizes = {
        "bits": (torch.uint8, (kernels, shape[0], (columns + 7) // 8)[several]),
        "scale": (torch.float32, (count, shape[0])[several]),
        "shift": (torch.float32, (count, layer.in_channels)[several]),
    }
    tensors = {"shift": torch.zeros(sizes["shift"][1])} | tensors
    for name, (dtype, size) in sizes.items():
        if tensors[name].dtype != dtype or tensors[name].shape != size:
            found = f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            raise ValueError(f"{name} is {found}, expected {dtype} {size}")
    bits = tensors["bits"].view(kernels, shape[0], -1).numpy()
    signs = torch.from_numpy(np.unpackbits(bits, axis=-1, count=columns)).float() * 2 - 1
    own = list(signs.view(kernels, *shape))
    pairs = zip(tensors["scale"].view(count, -1), tensors["shift"].view(count, -1), strict=True)
    terms = [Term(own[t % kernels], scale, shift) for t, (scale, shift) in enumerate(pairs)]
    layer.set_terms(terms)
    for term, made in zip(terms, layer.terms(), strict=True):  # NaN, or not of this method
        for name in ("scale", "shift"):
            if not torch.allclose(getattr(made, name), getattr(term, name)):
                raise ValueError(f"{name} holds values that the method never makes")


def _read_own(path: Path) -> tuple[nn.Module, str, dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
    except Exception as error:  # a parser of damaged files raises anything
        raise ValueError(
            f"{path}: not a whole safetensors file ({first_line(error)}); copy or train it again"
        ) from None
    if kind := kind_of(metadata):
        advice = "give the weights file that it was exported from"
        raise ValueError(f"{path}: a packed {kind}, which runs but does not train; {advice}")
    if metadata.get("format") != FORMAT or metadata.get("model") not in MODELS:
        raise ValueError(
            f"{path}: a safetensors file, but not of this program (no metadata format={FORMAT})"
        )
    try:
        net = build(metadata["model"], **_json(metadata, "options", path))
        for name, layer in binary_layers(net).items():
            own = {key: f"{name}.{key}" for key in ("bits", "scale", "shift")}
            _unpack(
                layer,
                {
                    key: tensors.pop(own[key])
                    for key in own
                    if key != "shift" or own[key] in tensors
                },
            )
        _set_borders(net, _json(metadata, "borders", path))
        derived = {
            f"{name}.{key}"
            for name, layer in binary_layers(net).items()
            for key, _ in layer.named_parameters(recurse=False)
        }
        load_tensors(net, tensors, derived)
    except (
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # options may be any JSON
        raise ValueError(
            f"{path}: does not fit the model {metadata['model']!r} it names ({first_line(error)})"
        ) from None
    return net, metadata["model"], _json(metadata, "info", path)


def _set_borders(net: nn.Module, borders: dict[str, Any]) -> None:
    """Give binary layers the borders that a file names; KeyError or ValueError where it names
    others.
    """
    layers = binary_layers(net)
    for name, border in borders.items():
        if border not in (-1, 0, 1):
            raise ValueError(f"border of {name} is {border!r}, expected -1, 0 or 1")
        layers[name].border = float(border)


def _json(metadata: dict[str, str], key: str, path: Path) -> dict[str, Any]:
    """The JSON object `key` of a file's metadata, empty where there is none; ValueError for
    anything else.
    """
    try:
        value = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: its metadata `{key}` is no JSON object; copy or train it again")
    return value


def load_tensors(
    net: nn.Module, tensors: dict[str, Tensor], optional: Collection[str] = ()
) -> None:  # type: ignore[assignment]
    """Load `tensors`, all of them; missing may be `optional` names and batch counters.  ValueError
    otherwise.
    """
    result = net.load_state_dict(tensors, strict=False)
    missing = [
        k
        for k in result.missing_keys
        if k not in optional and not k.endswith("num_batches_tracked")
    ]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(result.unexpected_keys) or 'none'}"
        )


def first_line(error: BaseException) -> str:
    """What a parser's error says, in one short line."""
    text = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())[
        :200
    ]  # torch's advice left out
    return (
        text if " " in text else f"{type(error).__name__} {text}".strip()
    )  # a bare key or nothing says too little
