"""The packed file: a 1-bit network as integers, one bit a binary weight.

A safetensors file.  Metadata, all strings: `format` "rbsf-packed-1", or -2, see below; `model`, a name; `layers`, a
JSON list in order of execution; `info`, a JSON object; `sha256`, the hex digest over the strings `model`, `layers`,
`info`, then for tensors sorted by name: name, dtype and shape as Python prints them, and the raw little-endian bytes.

An entry of `layers` has kind, name, kernel, stride, padding, groups, inputs, outputs (channels) and pool (max-pooling
3 x 3, stride 2, after it).  A bit is 1 for +1 and 0 for -1; binary convolutions pad with -1.  Tensors of a layer NAME:

    kind            NAME.weight                              others
    conv_u8         int8 [O, k, k, I], -63..63               NAME.threshold int32 [O]
    conv_bits       uint8 [O, ceil(k * k * I / g / 8)]       NAME.threshold int32 [O]
    conv_bits_real  as conv_bits                             NAME.scale, NAME.bias float32 [O]

"rbsf-packed-2" is the same but for its conv_u8, whose entry has `bits` too, 2 to 7, and whose weight is uint8
[O, ceil(k * k * I * bits / 8)]: rows of bits of the flattened [k, k, I] weights, each in two's complement of so many
bits, lowest first.

Rows of bits are `numpy.packbits(bitorder="little")` of the flattened [k, k, I / g] bits.  conv_u8 takes pixels 0..255
and comes first; conv_bits_real comes last.  With integer sums acc, an output bit is acc >= threshold, and the last
layer's output is scale * acc + bias, in float32, the product rounded before the sum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rbsf.files import write_atomically

HOLDS = {"rbsf-packed": "tracker", "rbsf-network": "classifier"}  # of formats, without their number
FORMATS = ("rbsf-packed-1", "rbsf-packed-2")  # without and with conv_u8 weights of a few bits
KINDS = ("conv_u8", "conv_bits", "conv_bits_real")
MAX_WEIGHT = 63  # of conv_u8: the sum of two products of a pixel and a weight fits 16 bits, which AVX2 needs
MAX_FILE_BYTES = 64 << 20
# What is in bounds keeps every sum within int32, and within float32's exact integers for binary layers.
LIMITS = {"kernel": (1, 31), "stride": (1, 16), "padding": (0, 16), "groups": (1, 1 << 14)}
MAX_CHANNELS = 1 << 14
MAX_LAYERS = 1000


@dataclass(frozen=True)
class Layer:
    """One convolution of a packed network; the arrays are as in the file, see above."""

    kind: str
    name: str
    kernel: int
    stride: int
    padding: int
    groups: int
    inputs: int
    outputs: int
    pool: bool
    weight: np.ndarray
    threshold: np.ndarray | None = None
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    bits: int = 8  # that a weight of a conv_u8 takes

    @property
    def whole(self) -> np.ndarray:
        """Weights of a conv_u8, int8 [O, k * k * I]."""
        if self.bits == 8:
            return self.weight.reshape(self.outputs, -1)
        rows = np.unpackbits(self.weight, axis=1, count=self.products * self.bits, bitorder="little")
        places = np.array([*(1 << i for i in range(self.bits - 1)), -(1 << (self.bits - 1))], np.int8)
        return (rows.reshape(self.outputs, self.products, self.bits).view(np.int8) * places).sum(2, dtype=np.int8)

    @property
    def products(self) -> int:
        """How many products an output sums up."""
        return self.kernel**2 * (self.inputs // self.groups)

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by the names they have in a file."""
        arrays = {key: getattr(self, key) for key in ("weight", "threshold", "scale", "bias")}
        return {f"{self.name}.{key}": array for key, array in arrays.items() if array is not None}

    def output_size(self, size: int) -> int:
        """Height or width of the output, after pooling, for that of the input; below 1 if the input is too small."""
        size = (size + 2 * self.padding - self.kernel) // self.stride + 1
        return (size - 3) // 2 + 1 if self.pool else size


@dataclass(frozen=True)
class PackedModel:
    """A packed network, checked: its layers follow on one another and every array is as the format says."""

    model: str
    layers: tuple[Layer, ...]
    info: dict[str, Any]
    path: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError in one line that names the layer."""
        try:
            check_layers(self.layers)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}" if self.path else str(error)) from None


GEOMETRY = [f.name for f in fields(Layer) if f.name not in ("weight", "threshold", "scale", "bias", "bits")]


def pack_whole(weight: np.ndarray, bits: int) -> np.ndarray:
    """int8 weights [O, ...] within +-(2^(bits-1) - 1) as rows of `bits` a weight, uint8 [O, bytes]."""
    rows = np.unpackbits(weight.reshape(len(weight), -1, 1).view(np.uint8), axis=2, count=bits, bitorder="little")
    return np.packbits(rows.reshape(len(weight), -1), axis=1, bitorder="little")


def check_layers(layers: Sequence[Layer]) -> None:
    """Raises ValueError for layers that are no network: unknown kinds, wrong order, shapes that do not fit."""
    if not 2 <= len(layers) <= MAX_LAYERS:
        raise ValueError(f"{len(layers)} layers: a packed network has 2 to {MAX_LAYERS}")
    if len({layer.name for layer in layers}) < len(layers):
        raise ValueError("two layers have the same name")
    for number, layer in enumerate(layers):
        check_layer(layer)
        kind = "conv_u8" if number == 0 else "conv_bits_real" if number == len(layers) - 1 else "conv_bits"
        if layer.kind != kind:
            raise ValueError(f"layer {layer.name!r} is {layer.kind}, number {number + 1} must be {kind}")
        if number and layer.inputs != layers[number - 1].outputs:
            raise ValueError(f"layer {layer.name!r} takes {layer.inputs} channels, {layers[number - 1].outputs} come")


def check_layer(layer: Layer) -> None:
    """Raises ValueError for one layer with a number out of range or an array of wrong type, shape or values."""
    where = f"layer {layer.name!r}"
    if layer.kind not in KINDS:
        raise ValueError(f"{where}: unknown kind {layer.kind!r}; this version knows {', '.join(KINDS)}")
    for field, (low, high) in {**LIMITS, "inputs": (1, MAX_CHANNELS), "outputs": (1, MAX_CHANNELS)}.items():
        value = getattr(layer, field)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{where}: {field}={value!r}, expected {low} to {high}")
    first = layer.kind == "conv_u8"
    if layer.inputs % layer.groups or layer.outputs % layer.groups:
        raise ValueError(f"{where}: {layer.inputs} to {layer.outputs} channels do not split into {layer.groups} groups")
    if type(layer.bits) is not int or layer.bits not in (range(2, 9) if first else (8,)):
        raise ValueError(f"{where}: bits={layer.bits!r}, expected 2 to 7, in a conv_u8")
    if first and (layer.groups, layer.padding) != (1, 0):
        raise ValueError(f"{where}: a conv_u8 has groups=1, padding=0, not {layer.groups}, {layer.padding}")
    if layer.products * (255 * MAX_WEIGHT if first else 1) >= (1 << 31 if first else 1 << 24):
        raise ValueError(f"{where}: its sums of {layer.products} products may overflow")
    if type(layer.pool) is not bool or (layer.pool and layer.kind == "conv_bits_real"):
        raise ValueError(f"{where}: pool={layer.pool!r}, expected true or false, false in a conv_bits_real")
    _check_arrays(layer, where)


def _check_arrays(layer: Layer, where: str) -> None:
    k, outputs = layer.kernel, layer.outputs
    expected: dict[str, tuple[str, tuple[int, ...]] | None] = {
        "weight": ("uint8", (outputs, (layer.products + 7) // 8)),
        "threshold": ("int32", (outputs,)) if layer.kind != "conv_bits_real" else None,
        "scale": ("float32", (outputs,)) if layer.kind == "conv_bits_real" else None,
        "bias": ("float32", (outputs,)) if layer.kind == "conv_bits_real" else None,
    }
    if layer.kind == "conv_u8":
        packed = ("uint8", (outputs, (layer.products * layer.bits + 7) // 8))
        expected["weight"] = ("int8", (outputs, k, k, layer.inputs)) if layer.bits == 8 else packed
    for key, form in expected.items():
        array = getattr(layer, key)
        found = None if array is None else (str(array.dtype), array.shape)
        if found != form:
            raise ValueError(f"{where}: {key} is {_form(found)}, expected {_form(form)}")
        if key in ("scale", "bias") and form and not np.isfinite(array).all():
            raise ValueError(f"{where}: {key} holds values that are not finite")
    if layer.bits < 8 and outputs * layer.products > MAX_FILE_BYTES:  # as many as with a byte each
        raise ValueError(f"{where}: its weights would take over {MAX_FILE_BYTES >> 20} MB unpacked")
    if layer.kind == "conv_u8" and np.abs(layer.whole.astype(np.int16)).max() > MAX_WEIGHT:
        raise ValueError(f"{where}: weights beyond +-{MAX_WEIGHT}")


def _form(form: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{form[0]} {list(form[1])}" if form else "absent"


def write_packed(path: str | Path, model: str, layers: Sequence[Layer], info: dict[str, Any]) -> None:
    """Write a packed file.  Raises ValueError for layers that are no network, OSError where `path` cannot be written.

    `info`: anything JSON holds (architecture, versions, training config, sha256 of the source file).
    """
    check_layers(layers)
    tensors = {name: array for layer in layers for name, array in layer.tensors().items()}
    keys = [GEOMETRY if layer.bits == 8 else [*GEOMETRY, "bits"] for layer in layers]
    entries = [{key: getattr(layer, key) for key in own} for layer, own in zip(layers, keys, strict=True)]
    write_file(path, FORMATS[any(layer.bits < 8 for layer in layers)], model, entries, tensors, info)


def write_file(
    path: str | Path, form: str, model: str, entries: list[Any], tensors: dict[str, np.ndarray], info: dict[str, Any]
) -> None:
    """Write a file of format `form` whose metadata `layers` are `entries`; OSError where `path` cannot be written."""
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = {"format": form, "model": model, "layers": json.dumps(entries), "info": json.dumps(info)}
    write_atomically(path, save(tensors, metadata | {"sha256": digest(metadata, tensors)}))


def read_packed(path: str | Path) -> PackedModel:
    """Read and check a packed file.

    Raises FileNotFoundError, or ValueError in one line for a file that is cut or changed, of a newer version, too
    large, or holds layers that are unknown or do not fit one another.
    """
    path = Path(path)
    model, entries, tensors, info = read_file(path, *FORMATS)
    try:
        layers = tuple(_layer(entry, tensors) for entry in entries)
        if tensors:
            raise ValueError(f"holds tensors of no layer: {', '.join(sorted(tensors))[:100]}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return PackedModel(model, layers, info, path)


def read_file(path: Path, *forms: str) -> tuple[str, list[Any], dict[str, np.ndarray], dict[str, Any]]:
    """The name, the entries of `layers`, the tensors and the info of a file of a format in `forms`, its checksum right.

    Raises as `read_packed` does, but for what the entries and tensors say.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no packed file {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; packed files have at most {MAX_FILE_BYTES}")
    metadata, tensors = _read_safetensors(path)
    found = metadata.get("format", "")
    if found not in forms:
        packed = found.startswith(("rbsf-packed-", "rbsf-network-"))
        known = f"{found}, and this version reads {' and '.join(forms)} here"
        raise ValueError(f"{path}: {known if packed else 'no packed network'}")
    if digest(metadata, tensors) != metadata.get("sha256"):
        raise ValueError(f"{path}: its bytes have changed since it was written (sha256); copy or export it again")
    entries, info = _read_json(metadata, "layers", list, path), _read_json(metadata, "info", dict, path)
    return metadata.get("model", ""), entries, tensors, info


def packed_kind(path: str | Path) -> str:
    """What a packed file holds, as far as its header says: a value of HOLDS, empty where it is no such file."""
    try:
        with safe_open(path, "numpy") as file:
            return kind_of(file.metadata() or {})
    except (OSError, SafetensorError):  # what is wrong with it is said when it is loaded
        return ""


def kind_of(metadata: dict[str, str]) -> str:
    """As `packed_kind`, of a file's metadata."""
    return HOLDS.get(metadata.get("format", "").rpartition("-")[0], "")


def digest(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> str:
    """What `sha256` must be, see above."""
    sha = hashlib.sha256("".join(metadata.get(key, "") for key in ("model", "layers", "info")).encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha.update(f"{name}{array.dtype}{array.shape}".encode())
        sha.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
    except Exception as error:  # a parser of damaged files raises anything
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path}: not a whole safetensors file ({reason}); copy or export it again") from None


def _read_json(metadata: dict[str, str], key: str, kind: type, path: Path) -> Any:
    try:
        value = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ValueError(f"{path}: its metadata {key!r} is no JSON {kind.__name__}; copy or export it again")
    return value


def _layer(entry: Any, tensors: dict[str, np.ndarray]) -> Layer:
    """The layer of one entry, its tensors taken out of `tensors`; they are checked later."""
    if not isinstance(entry, dict) or {*entry} - {"bits"} != {*GEOMETRY} or not isinstance(entry["name"], str):
        raise ValueError(f"a layer is {str(entry)[:100]}, expected {', '.join(GEOMETRY)}")
    arrays: dict[str, Any] = {
        key: tensors.pop(f"{entry['name']}.{key}", None) for key in ("weight", "threshold", "scale", "bias")
    }
    if arrays["weight"] is None:
        raise ValueError(f"layer {entry['name']!r} has no weight")
    return Layer(**entry, **arrays)
