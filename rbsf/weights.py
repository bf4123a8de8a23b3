"""Weights files: our own safetensors, and float SiamFC weights published elsewhere.

Our file holds an inference network: of binary convolutions one bit a weight, rows of `numpy.packbits` per filter,
and a float32 scale per channel; the rest as float32.  Metadata: `format`, `model` and `options` (JSON) to build it by
(see `rbsf.models`), `info` (JSON).
Of a binary convolution `name` with T terms and M kernels there are `name.bits` [M, O, bytes], `name.scale` [T, O] and,
unless it is zero, `name.shift` [T, I]; term t has kernel t % M.  Where T is 1, the leading dimension is left out.
"""

from __future__ import annotations

import json
import pickle
import warnings
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
SIAMFC_EPS = 1e-6  # of the batch-norms in siamfc-pytorch


def save_weights(net: nn.Module, model: str, path: str | Path, info: dict[str, Any] | None = None) -> None:
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
    if borders := {name: layer.border for name, layer in binary_layers(net).items() if layer.border != -1}:
        metadata["borders"] = json.dumps(borders)
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)
    write_atomically(path, data)


def load_weights(path: str | Path) -> tuple[nn.Module, str, dict[str, Any]]:
    """Read a weights file: the network in eval mode, the name of its model, and the info saved with it.

    `.safetensors`: ours.  `.npz`: `convN.weight`, `convN.bias`, batch-norm folded in.  `.pth`: the state dict of a
    siamfc-pytorch network.  Raises FileNotFoundError, or ValueError in one line for a file that is cut off, holds
    pickled code or values that are not finite, or is of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    readers = {".safetensors": _read_own, ".npz": _read_npz, ".pth": _read_pth, ".pt": _read_pth}
    if path.suffix not in readers:
        raise ValueError(f"{path}: weights end in {', '.join(readers)}, not {path.suffix!r}")
    net, model, info = readers[path.suffix](path)
    for name, tensor in net.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite; copy or train it again")
    return net.eval(), model, info


def read_torch(path: str | Path, what: str, advice: str) -> Any:
    """What `torch.save` wrote, onto the CPU and without running code of the file.

    Raises ValueError in one line, "not a whole `what`" or "holds pickled code", which ends in `advice`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; where they matter an error follows
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's parser raises anything on damaged bytes
        if isinstance(error, pickle.UnpicklingError) and _is_code(Path(path), str(error)):
            raise ValueError(f"{path}: holds pickled code, which is not loaded; {advice}") from None
        raise ValueError(f"{path}: not a whole {what} ({_first_line(error)}); {advice}") from None


def _is_code(path: Path, refusal: str) -> bool:
    """Did torch refuse a real pickle, not damaged bytes?

    Of those of protocol 4 and newer, Python's own, it reads none: it stops at operand 149, which opens them.
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
            f"{path}: not a whole safetensors file ({_first_line(error)}); copy or train it again"
        ) from None
    if kind := kind_of(metadata):
        advice = "give the weights file that it was exported from"
        raise ValueError(f"{path}: a packed {kind}, which runs but does not train; {advice}")
    if metadata.get("format") != FORMAT or metadata.get("model") not in MODELS:
        raise ValueError(f"{path}: a safetensors file, but not of this program (no metadata format={FORMAT})")
    try:
        net = build(metadata["model"], **_json(metadata, "options", path))
        for name, layer in binary_layers(net).items():
            own = {key: f"{name}.{key}" for key in ("bits", "scale", "shift")}
            _unpack(layer, {key: tensors.pop(own[key]) for key in own if key != "shift" or own[key] in tensors})
        _set_borders(net, _json(metadata, "borders", path))
        derived = {
            f"{name}.{key}"
            for name, layer in binary_layers(net).items()
            for key, _ in layer.named_parameters(recurse=False)
        }
        _load(net, tensors, derived)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # options may be any JSON
        raise ValueError(
            f"{path}: does not fit the model {metadata['model']!r} it names ({_first_line(error)})"
        ) from None
    return net, metadata["model"], _json(metadata, "info", path)


def _set_borders(net: nn.Module, borders: dict[str, Any]) -> None:
    """Give binary layers the borders that a file names; KeyError or ValueError where it names others."""
    layers = binary_layers(net)
    for name, border in borders.items():
        if border not in (-1, 0, 1):
            raise ValueError(f"border of {name} is {border!r}, expected -1, 0 or 1")
        layers[name].border = float(border)


def _json(metadata: dict[str, str], key: str, path: Path) -> dict[str, Any]:
    """The JSON object `key` of a file's metadata, empty where there is none; ValueError for anything else."""
    try:
        value = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: its metadata `{key}` is no JSON object; copy or train it again")
    return value


def _load(net: nn.Module, tensors: dict[str, Tensor], optional: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Load `tensors`, all of them; missing may be `optional` names and batch counters.  ValueError otherwise."""
    result = net.load_state_dict(tensors, strict=False)
    missing = [k for k in result.missing_keys if k not in optional and not k.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(result.unexpected_keys) or 'none'}"
        )


def _read_npz(path: Path) -> tuple[nn.Module, str, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: torch.from_numpy(file[key].astype(np.float32)) for key in file.files}
    except Exception as error:  # a parser of damaged files raises anything
        raise ValueError(f"{path}: not a whole .npz of plain arrays ({_first_line(error)}); copy it again") from None
    net = build("siamfc")
    tensors = {}
    try:
        for number, block in enumerate(net.layers, 1):  # type: ignore[arg-type]
            weight, bias = arrays[f"conv{number}.weight"], arrays[f"conv{number}.bias"]
            tensors[f"layers.{number - 1}.conv.weight"] = weight
            if isinstance(block.norm, nn.BatchNorm2d):
                # The batch-norm is folded in: ours only adds the bias.
                tensors[f"layers.{number - 1}.norm.bias"] = bias
                tensors[f"layers.{number - 1}.norm.running_var"] = torch.full_like(bias, 1 - block.norm.eps)
                tensors[f"layers.{number - 1}.norm.running_mean"] = torch.zeros_like(bias)
                tensors[f"layers.{number - 1}.norm.weight"] = torch.ones_like(bias)
            else:
                tensors[f"layers.{number - 1}.conv.bias"] = bias
        _load(net, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: no SiamFC of conv1..conv5 .weight and .bias ({_first_line(error)})") from None
    return net, "siamfc", {}


def _read_pth(path: Path) -> tuple[nn.Module, str, dict[str, Any]]:
    state = read_torch(path, "PyTorch file", "copy it again, or save the network's state_dict alone")
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(
            f"{path}: no state dict of tensors; its siamfc-pytorch keys would be backbone.conv1.0.weight ..."
        )
    net = build("siamfc")
    parts = {"0": "conv", "1": "norm"}
    try:
        tensors = {}
        for key, tensor in state.items():
            number, part, rest = _siamfc_key(key)
            tensors[f"layers.{number - 1}.{parts[part]}.{rest}"] = tensor
        for number, block in enumerate(net.layers):  # type: ignore[arg-type]
            if isinstance(block.norm, nn.BatchNorm2d):
                # A bias in front of a batch-norm only shifts its mean, and a difference of eps its variance.
                mean, var = f"layers.{number}.norm.running_mean", f"layers.{number}.norm.running_var"
                tensors[mean] = tensors[mean] - tensors.pop(f"layers.{number}.conv.bias", 0)
                tensors[var] = tensors[var] + (SIAMFC_EPS - block.norm.eps)
        _load(net, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: no network of siamfc-pytorch's AlexNet layout ({_first_line(error)})") from None
    return net, "siamfc", {}


def _siamfc_key(key: str) -> tuple[int, str, str]:
    """`[module.][backbone.]conv2.1.weight` to (2, "1", "weight"), `conv5.weight` to (5, "0", "weight")."""
    words = key.removeprefix("module.").removeprefix("backbone.").removeprefix("features.").split(".")
    if not words[0].startswith("conv") or len(words) not in (2, 3):
        raise ValueError(f"unknown key {key}")
    number = int(words[0].removeprefix("conv"))
    return (number, words[1], words[2]) if len(words) == 3 else (number, "0", words[1])


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())[:200]  # torch's advice left out
    return text if " " in text else f"{type(error).__name__} {text}".strip()  # a bare key or nothing says too little
