"""Networks as backbones of `rbsf.tracker.siamfc`: uint8 RGB crops in, float32 features out."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open

from rbsf.engine.file import packed_kind, read_packed
from rbsf.engine.graph import PackedModel
from rbsf.system.environment import cores
from rbsf.system.text import one_line
from rbsf.tracker.geometry import EXEMPLAR_SIZE
from rbsf.tracker.siamfc import Backbone

if TYPE_CHECKING:  # torch takes a second to import, and packed networks do not need it
    from torch import nn

PRECISIONS = ("float32", "bfloat16")
ENGINES = ("auto", "packed", "torch")


def torch_backbone(net: nn.Module, device: str = "auto", precision: str = "float32") -> Backbone:
    """Wrap a network that takes RGB `[N, 3, S, S]`, float 0 to 255, and returns `[N, C, H, W]`.

    The network is put into eval mode on `device`, a torch device name or "auto" (a GPU if there is
    one). `precision` "bfloat16" runs convolutions in 16 bits, about 4 times faster on CPUs with
    AMX. Raises ValueError for an unknown precision or a missing device.
    """
    import torch

    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: give one of {', '.join(PRECISIONS)}")
    from rbsf.train.device import choose_device

    place = choose_device(device)
    net = net.eval().to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def features(crops: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(crops).to(place).permute(0, 3, 1, 2)  # [N, 3, S, S], channels last
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
            maps = net(batch.float())  # [N, C, H, W]
            return maps.float().contiguous().cpu().numpy()

    return features


def load_backbone(
    path: str | Path,
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    engine: str = "auto",
) -> Backbone:
    """Load a network as a backbone, and try it on an empty crop.

    `engine`: see `choose_engine`. `threads`: CPU threads of the network, and of OpenCV and PyTorch
    in this process; None uses all cores. `precision` only affects PyTorch; if the packed engine
    runs, a line on stderr says so. Raises FileNotFoundError for a missing file; ValueError for a
    broken file, another network's weights, or an engine or device that is not available.
    """
    if is_rbsf2(path):
        raise ValueError(
            f"{path} holds RB-SF 2, which is no backbone alone;"
            " give weights of RB-SF, XNOR or SiamFC"
        )
    path, engine = choose_engine(path, engine)
    if engine == "packed":
        check_on_cpu(device)
        if precision != "float32":  # not an error, since float networks may run next to this one
            print(
                f"{path}: the packed engine counts bits, --precision {precision} is PyTorch's",
                file=sys.stderr,
            )
    if threads is not None:
        cv2.setNumThreads(threads)
    if engine == "packed":
        backbone = _packed_backbone(path, threads)
    else:
        backbone = _load_torch(path, device, precision, threads)
    _try_out(backbone, path)
    return backbone


def _try_out(backbone: Backbone, path: Path) -> None:
    """Raise ValueError if a network does not turn a crop into features."""
    crop = np.zeros((1, EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3), np.uint8)
    try:
        shape = backbone(crop).shape
    except (RuntimeError, ValueError) as error:  # these messages name layers, not the file
        reason = one_line(error, 150)
        raise ValueError(f"{path} holds no tracker backbone: {reason}") from error
    if len(shape) != 4 or min(shape[2:]) < 2:
        raise ValueError(
            f"{path} holds no tracker backbone: it turns a {EXEMPLAR_SIZE}-pixel crop into {shape}"
        )


def check_on_cpu(device: str) -> None:
    """Raise ValueError for a device that the packed engine does not run on."""
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"device {device!r}: the packed engine runs on the CPU; add --engine torch"
        )


def describe_backbone(network: object) -> str:
    """The engine of a network, such as "packed engine, instruction set avx2, 2 threads"."""
    return str(network) if hasattr(network, "isa") else "PyTorch"


def describe_run(network: object, device: str, precision: str) -> str:
    """The engine and threads of a network; for PyTorch also its device and precision.

    `device` and `precision` are those with which it was loaded.
    """
    if hasattr(network, "isa"):
        return describe_backbone(network)
    import torch

    from rbsf.train.device import choose_device

    threads = torch.get_num_threads()
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{describe_backbone(network)} on {choose_device(device)}, {precision}, {count}"


def choose_engine(path: str | Path, engine: str = "auto") -> tuple[Path, str]:
    """The file to load, and the engine that runs it: "packed" or "torch".

    "auto" runs packed files in the packed engine, and others in PyTorch. For "torch" with a packed
    file, the result is the file next to it from which it was exported: NAME.safetensors for
    NAME-packed.safetensors, else NAME-train.safetensors. For "packed" with 1-bit weights, these are
    packed on loading. Raises ValueError for an unknown engine, for a packed classifier, and if the
    network for PyTorch is missing.
    """
    path = Path(path)
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r}: give one of {', '.join(ENGINES)}")
    if packed_kind(path) == "classifier":
        raise ValueError(
            f"{path}: a packed classifier, no tracker;"
            " give a tracker such as weights/rbsf.safetensors"
        )
    if not is_packed(path):
        return path, "torch" if engine == "auto" else engine
    if engine == "torch":
        return _trained_form(path), "torch"
    return path, "packed"


def is_rbsf2(path: str | Path) -> bool:
    """Whether a file holds RB-SF 2, packed or not, according to its header."""
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("model") == "rbsf2"
    except (OSError, SafetensorError):  # loading the file reports the error
        return False


def is_packed(path: str | Path) -> bool:
    """Whether a file holds a packed tracker, according to its header."""
    return packed_kind(path) == "tracker"


def _trained_form(path: Path) -> Path:
    """The network file from which a packed file was exported; raises ValueError if missing."""
    stem = path.stem.removesuffix("-packed")
    if stem == path.stem:
        stem = f"{stem}-train"
    trained = path.with_stem(stem)
    if not trained.is_file():
        raise ValueError(
            f"{path} is packed, and PyTorch needs the network it came from, {trained},"
            " which is not there"
        )
    digest = hashlib.sha256(trained.read_bytes()).hexdigest()
    if read_packed(path).info.get("source_sha256") != digest:
        raise ValueError(
            f"{trained} is not what {path} was exported from; give the file that PyTorch shall run"
        )
    return trained


def _packed_backbone(path: Path, threads: int | None) -> Backbone:
    from rbsf.engine.run import Engine

    model = read_packed(path) if is_packed(path) else _pack(path)
    return Engine(model, threads or cores())


def _pack(path: Path) -> PackedModel:
    """Pack the weights of a 1-bit network."""
    from rbsf.export.pack import packed_weights

    try:
        return packed_weights(path).packed
    except ValueError as error:
        raise ValueError(f"{path}: {error}; leave out --engine packed") from None


def _load_torch(path: Path, device: str, precision: str, threads: int | None) -> Backbone:
    import torch

    from rbsf.tracker.teachers.siamfc import load_tracker

    if threads is not None:
        torch.set_num_threads(threads)
    net, _, _ = load_tracker(path)
    return torch_backbone(net, device, precision)
