"""Weights files.

A weights file (.safetensors) holds an inference network. Its metadata are

- `format`,
- `model` and `options` (JSON), from which `rbsf.models.build` builds the network,
- `info` (JSON),
- `borders` (JSON): the borders of binary convolutions that are not -1,
- `sha256`, a checksum of everything else. Files of the older format "rbsf-weights-1" may have none.

A binary convolution `name` with T terms and M kernels is stored as

- `name.bits` `[M, O, bytes]`: one bit per weight, a row of `numpy.packbits` for each filter,
- `name.scale` `[T, O]`, float32,
- `name.shift` `[T, I]`, float32, left out if it is zero,
- `name.bias` `[O]`, float32, for a convolution that has one.

Term t has kernel `t % M`. If T is 1, the leading dimension is left out. All other tensors are
float32.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rbsf.engine.file import packed_task
from rbsf.layers import BinaryConv2d, Term, binary_layers, distinct_signs, make_terms
from rbsf.models import MODELS, build
from rbsf.system.files import write_atomically
from rbsf.system.tensor_file import checksum, in_order
from rbsf.torch_file import first_line

FORMAT = "rbsf-weights-2"
FORMATS = ("rbsf-weights-1", FORMAT)
PACKED = {"bits": torch.uint8} | dict.fromkeys(("scale", "shift", "bias"), torch.float32)
COUNTER = "num_batches_tracked"  # a tensor of batch-norms, used only in training


def save_weights(
    net: nn.Module, model: str, path: str | Path, info: dict[str, Any] | None = None
) -> None:
    """Write `net` for inference, with its `model_options` and the `model` name it was built as.

    Raises OSError if `path` cannot be written.
    """
    metadata = {"format": FORMAT, "model": model, "info": json.dumps(info or {})}
    if options := getattr(net, "model_options", {}):
        metadata["options"] = json.dumps(options)
    layers = binary_layers(net).items()
    if borders := {name: layer.border for name, layer in layers if layer.border != -1}:
        metadata["borders"] = json.dumps(borders)
    tensors = _stored_tensors(net)
    metadata["sha256"] = digest(metadata, tensors)
    write_atomically(path, in_order(save(tensors, metadata)))


def digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The value that `sha256` must have, computed from all other `metadata` and `tensors`."""
    others = {key: value for key, value in metadata.items() if key != "sha256"}
    text = json.dumps(others, sort_keys=True)
    return checksum(text, (_part(name, tensors[name]) for name in sorted(tensors)))


def _part(name: str, tensor: Tensor) -> tuple[str, np.ndarray]:
    """The part of the digest's input that comes from one tensor."""
    flat = tensor.reshape(-1).view(torch.uint8)
    return f"{name}{tensor.dtype}{tuple(tensor.shape)}", flat.numpy()


def _stored_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of `net` as a file stores them, by name."""
    layers = binary_layers(net)
    tensors = {
        key: tensor
        for key, tensor in net.state_dict().items()
        if key.rpartition(".")[0] not in layers and not key.endswith(COUNTER)
    }
    for name, layer in layers.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in _pack(layer).items()}
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def load_weights(path: str | Path) -> tuple[nn.Module, str, dict[str, Any]]:
    """Read a weights file: the network in eval mode, its model's name, and the info saved with it.

    Raises FileNotFoundError, or ValueError in one line for a file that is cut off, holds values
    that are not finite, or was made by another program.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a weights file, which ends in .safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights end in .safetensors, not {path.suffix!r}")
    metadata, tensors = _read_file(path)
    model = metadata["model"]
    try:
        net = _build(metadata, tensors, path)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # The options may be any JSON, so `build` may fail in any way.
        reason = first_line(error)
        raise ValueError(f"{path}: does not fit the model {model!r} it names ({reason})") from None
    info = _json(metadata, "info", path)
    return checked(net, path), model, info


def checked(net: nn.Module, path: Path) -> nn.Module:
    """Return `net`, read from `path`, in eval mode. Raises ValueError if a value is not finite."""
    for name, tensor in net.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {name} holds values that are not finite; copy or train it again"
            )
    return net.eval()


def _pack(layer: BinaryConv2d) -> dict[str, Tensor]:
    """The terms of `layer` as a file stores them, by the last part of their name."""
    terms = layer.terms()
    positive = torch.stack(distinct_signs(terms)).flatten(2) > 0  # [M, O, I/g * k * k]
    bits = np.packbits(positive.cpu().numpy(), axis=-1)  # [M, O, bytes]
    tensors = {
        "bits": torch.from_numpy(bits),
        "scale": torch.stack([term.scale for term in terms]).float(),
        "shift": torch.stack([term.shift for term in terms]).float(),
    }
    if not tensors["shift"].any():
        del tensors["shift"]
    if len(terms) == 1:
        tensors = {key: tensor[0] for key, tensor in tensors.items()}
    if layer.bias is not None:
        tensors["bias"] = layer.bias.float()
    return tensors


def _unpack(layer: BinaryConv2d, tensors: dict[str, Tensor]) -> None:
    """Put the `tensors` of a file into `layer`. Raises ValueError if they do not fit it."""
    own_terms = layer.terms()
    own_kernels = distinct_signs(own_terms)
    sizes = _packed_sizes(own_terms, own_kernels)
    tensors = {"shift": torch.zeros(sizes["shift"])} | tensors
    if layer.bias is not None or "bias" in tensors:
        sizes["bias"] = (layer.out_channels,)
    _check_sizes(tensors, sizes)
    kernels = _unpack_bits(tensors["bits"], len(own_kernels), own_kernels[0].shape)
    scales, shifts = (tensors[key].view(len(own_terms), -1) for key in ("scale", "shift"))
    terms = make_terms(kernels, scales, shifts)
    layer.set_terms(terms)
    _check_kept(terms, layer.terms())
    if "bias" in tensors:
        layer.bias = nn.Parameter(tensors["bias"])


def _check_sizes(tensors: dict[str, Tensor], sizes: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError if one of `tensors` is missing or has a wrong size or dtype."""
    for name, size in sizes.items():
        if name not in tensors:
            raise ValueError(f"{name} is missing, expected {PACKED[name]} {size}")
        tensor, dtype = tensors[name], PACKED[name]
        if tensor.dtype != dtype or tensor.shape != size:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"{name} is {found}, expected {dtype} {size}")


def _unpack_bits(bits: Tensor, count: int, shape: torch.Size) -> list[Tensor]:
    """The `count` kernels of -1 and +1 in `bits`, each of `shape` `[O, I/g, k, k]`."""
    rows = bits.view(count, shape[0], -1).numpy()  # [M, O, bytes]
    unpacked = np.unpackbits(rows, axis=-1, count=shape[1:].numel())  # [M, O, I/g * k * k]
    signs = torch.from_numpy(unpacked).float() * 2 - 1
    return list(signs.view(count, *shape))


def _packed_sizes(terms: Sequence[Term], kernels: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """Sizes of the tensors that store `terms` with these `kernels`, by name."""
    outputs, inputs = len(terms[0].scale), len(terms[0].shift)
    row_bytes = (kernels[0][0].numel() + 7) // 8
    sizes: dict[str, tuple[int, ...]] = {
        "bits": (len(kernels), outputs, row_bytes),
        "scale": (len(terms), outputs),
        "shift": (len(terms), inputs),
    }
    if len(terms) == 1:
        return {name: size[1:] for name, size in sizes.items()}
    return sizes


def _check_kept(terms: Sequence[Term], kept: Sequence[Term]) -> None:
    """Raise ValueError if a layer did not keep `terms`, which do not suit its method.

    Terms that are not finite suit none.
    """
    for term, own in zip(terms, kept, strict=True):
        for name in ("scale", "shift"):
            read = getattr(term, name)
            if not (read.isfinite().all() and torch.allclose(getattr(own, name), read)):
                raise ValueError(f"{name} holds values that the method never makes")


def _read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a weights file. Raises ValueError if it is not a weights file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
    except Exception as error:  # the parser may raise any error on a damaged file
        reason = first_line(error)
        raise ValueError(
            f"{path}: not a whole safetensors file ({reason}); copy or train it again"
        ) from None
    if kind := packed_task(metadata):
        advice = "give the weights file that it was exported from"
        raise ValueError(f"{path}: a packed {kind}, which runs but does not train; {advice}")
    if metadata.get("format") not in FORMATS or metadata.get("model") not in MODELS:
        raise ValueError(
            f"{path}: a safetensors file, but not of this program (no metadata format={FORMAT})"
        )
    _check_unchanged(metadata, tensors, path)
    return metadata, tensors


def _check_unchanged(metadata: dict[str, str], tensors: dict[str, Tensor], path: Path) -> None:
    """Raise ValueError if the checksum of a file differs; warn if an old file has none."""
    if "sha256" not in metadata and metadata["format"] != FORMAT:
        warnings.warn(f"{path}: has no checksum, so damage cannot be noticed", stacklevel=4)
    elif digest(metadata, tensors) != metadata.get("sha256"):
        fault = "its bytes have changed since it was written (sha256)"
        raise ValueError(f"{path}: {fault}; copy or train it again")


def _build(metadata: dict[str, str], tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """The network of a file. Raises many kinds of error if the parts do not fit together."""
    options = _json(metadata, "options", path)
    _check_forms(metadata["model"], options, tensors)
    net = build(metadata["model"], **options)
    layers = binary_layers(net)
    restored: set[str] = set()
    for name, layer in layers.items():
        _unpack(layer, _take_packed(tensors, name))
        restored |= {f"{name}.{key}" for key, _ in layer.named_parameters(recurse=False)}
    _set_borders(layers, _json(metadata, "borders", path))
    load_tensors(net, tensors, restored)
    return net


def _check_forms(model: str, options: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError if `tensors` do not have the sizes of the network, before it is built.

    A small file may name a network that takes all memory; the device "meta" takes none.
    """
    with torch.device("meta"):
        net = build(model, **options)
    layers = binary_layers(net)
    for name, layer in layers.items():
        terms = layer.terms()
        sizes = _packed_sizes(terms, distinct_signs(terms))
        _check_sizes(
            {"shift": torch.zeros(sizes["shift"], device="meta")} | _packed(tensors, name), sizes
        )
    for key, own in net.state_dict().items():
        if key.rpartition(".")[0] not in layers and not key.endswith(COUNTER):
            _check_shape(key, own.shape, tensors)


def _check_shape(key: str, shape: torch.Size, tensors: dict[str, Tensor]) -> None:
    if key not in tensors:
        raise ValueError(f"missing: {key}")
    if tensors[key].shape != shape:
        found = tuple(tensors[key].shape)
        raise ValueError(f"{key} is {found}, expected {tuple(shape)}")


def _packed(tensors: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    """The packed tensors of `layer` among `tensors`, by the last part of their names."""
    names = {key: f"{layer}.{key}" for key in PACKED}
    return {key: tensors[name] for key, name in names.items() if name in tensors}


def _take_packed(tensors: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    """Remove the packed tensors of `layer` from `tensors`; returns them by last part of name."""
    found = _packed(tensors, layer)
    for key in found:
        del tensors[f"{layer}.{key}"]
    return found


def _set_borders(layers: Mapping[str, BinaryConv2d], borders: dict[str, Any]) -> None:
    """Give `layers` the `borders` of a file.

    Raises ValueError for a border that is not -1, 0 or 1, and KeyError for an unknown layer.
    """
    for name, border in borders.items():
        if border not in (-1, 0, 1):
            raise ValueError(f"border of {name} is {border!r}, expected -1, 0 or 1")
        layers[name].border = float(border)


def _json(metadata: dict[str, str], key: str, path: Path) -> dict[str, Any]:
    """The JSON object `key` of a file's metadata; empty if the key is missing.

    Raises ValueError for anything else.
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
) -> None:
    """Load all of `tensors` into `net`.

    Raises ValueError if a tensor is unknown, or if one is missing that is neither `optional` nor a
    batch counter.
    """
    result = net.load_state_dict(tensors, strict=False)
    needed = [key for key in result.missing_keys if not key.endswith(COUNTER)]
    missing = [key for key in needed if key not in optional]
    unknown = result.unexpected_keys
    if missing or unknown:
        raise ValueError(
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
