"""The packed file: a network as a graph of operations, one bit a binary weight.

A safetensors file.  Metadata, all strings: `format` "rbsf-graph-1"; `task`, "tracker" or
"classifier"; `model`, a name; `layers`, a JSON list of nodes in order of execution; `info`, a JSON
object; `sha256`, the hex digest over the strings `task`, `model`, `layers`, `info`, then for
tensors sorted by name: name, dtype and shape as Python prints them, and the raw little-endian
bytes.

A node is {"name", "op", "inputs", "attributes"}.  `op` names a module of `rbsf.engine.ops`, which
says what attributes and tensors it has; `inputs` name earlier nodes.  The tensors of a node NAME
are NAME.KEY; where it shares one with another node, it has "shared": {KEY: the tensor's name} too.
Those in its "bytes": [KEY] are int8 [O, ...], to be multiplied by NAME.KEY_steps, float32 [O]: so
weights are kept that are whole multiples of a power of two.

Files of the formats before, "rbsf-packed-1", "rbsf-packed-2" and "rbsf-network-1", are read too:
`old_files.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rbsf.engine import old_files
from rbsf.engine.graph import PackedModel, by_owner, check_entry
from rbsf.engine.node import Node
from rbsf.system.files import write_atomically

FORMAT = "rbsf-graph-1"
FORMATS = (FORMAT, *old_files.FORMATS)
TASKS = ("tracker", "classifier")
MAX_FILE_BYTES = 64 << 20
MAX_BYTE = 127


def write_packed(
    path: str | Path, model: str, task: str, nodes: Sequence[Node], info: dict[str, Any]
) -> PackedModel:
    """Write a packed file; returns what was written.

    `info`: anything JSON holds (architecture, versions, training config, sha256 of the source
    file). Raises ValueError for nodes that are no network, OSError where `path` cannot be written.
    """
    packed = PackedModel(model, task, tuple(nodes), info)
    entries: list[dict[str, Any]] = []
    tensors: dict[str, np.ndarray] = {}
    names: dict[int, str] = {}
    for node in nodes:
        entry: dict[str, Any] = {"name": node.name, "op": node.op, "inputs": list(node.inputs)}
        entry |= {"attributes": node.attributes}
        for key, array in _smaller(node.tensors, entry).items():
            name = names.setdefault(id(array), f"{node.name}.{key}")
            tensors[name] = np.ascontiguousarray(array)
            if name != f"{node.name}.{key}":
                entry.setdefault("shared", {})[key] = name
        entries.append(entry)
    metadata = {"format": FORMAT, "task": task, "model": model}
    metadata |= {"layers": json.dumps(entries, separators=(",", ":")), "info": json.dumps(info)}
    write_atomically(path, save(tensors, metadata | {"sha256": digest(metadata, tensors)}))
    return packed


def _smaller(tensors: dict[str, np.ndarray], entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """`tensors` as a file keeps them; the node's `entry` is told which are bytes."""
    kept: dict[str, np.ndarray] = {}
    for key, array in tensors.items():
        if (found := as_bytes(array)) is None:
            kept[key] = array
            continue
        entry.setdefault("bytes", []).append(key)
        kept[key], kept[f"{key}_steps"] = found
    return kept


def as_bytes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """int8 [O, ...] and float32 [O], powers of two, whose product is `array` exactly; None where
    there are none.
    """
    if array.dtype != np.float32 or array.ndim < 2 or not array.size:
        return None
    rows = array.reshape(len(array), -1).astype(np.float64)
    largest = np.abs(rows).max(1)
    step = np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1) / MAX_BYTE)))
    whole = rows / step[:, None]
    if not np.array_equal(whole, np.rint(whole)):
        return None
    return whole.astype(np.int8).reshape(array.shape), step.astype(np.float32)


def read_packed(path: str | Path) -> PackedModel:
    """Read and check a packed file.

    Raises FileNotFoundError, or ValueError in one line for a file that is cut or changed, of a
    newer version, too large, or holds operations that are unknown or do not fit one another.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no packed file {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes; packed files have at most {MAX_FILE_BYTES}"
        )
    metadata, tensors = _read_safetensors(path)
    form = metadata.get("format", "")
    if form not in FORMATS:
        ours = form.startswith(("rbsf-graph-", "rbsf-packed-", "rbsf-network-"))
        known = f"{form}, and this version reads {', '.join(FORMATS)}"
        raise ValueError(f"{path}: {known if ours else 'no packed network'}")
    if digest(metadata, tensors) != metadata.get("sha256"):
        raise ValueError(
            f"{path}: its bytes have changed since it was written (sha256); copy or export it again"
        )
    entries, info = (
        _read_json(metadata, "layers", list, path),
        _read_json(metadata, "info", dict, path),
    )
    try:
        nodes = (
            _nodes(entries, tensors) if form == FORMAT else old_files.nodes(form, entries, tensors)
        )
        if kind_of(metadata) not in TASKS:
            raise ValueError(f"its task is {metadata.get('task')!r}, expected {' or '.join(TASKS)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return PackedModel(metadata.get("model", ""), kind_of(metadata), tuple(nodes), info, path)


def packed_kind(path: str | Path) -> str:
    """What a packed file holds, as far as its header says: one of TASKS, empty where it is no such
    file.
    """
    try:
        with safe_open(path, "numpy") as file:
            return kind_of(file.metadata() or {})
    except (OSError, SafetensorError):  # what is wrong with it is said when it is loaded
        return ""


def kind_of(metadata: dict[str, str]) -> str:
    """As `packed_kind`, of a file's metadata."""
    form = metadata.get("format", "").rpartition("-")[0]
    return metadata.get("task", "") if form == "rbsf-graph" else old_files.TASKS.get(form, "")


def digest(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> str:
    """What `sha256` must be, see above."""
    sha = hashlib.sha256(
        "".join(metadata.get(key, "") for key in ("task", "model", "layers", "info")).encode()
    )
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
        raise ValueError(
            f"{path}: not a whole safetensors file ({reason}); copy or export it again"
        ) from None


def _read_json(metadata: dict[str, str], key: str, kind: type, path: Path) -> Any:
    try:
        value = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ValueError(
            f"{path}: its metadata {key!r} is no JSON {kind.__name__}; copy or export it again"
        )
    return value


def _nodes(entries: list[Any], tensors: dict[str, np.ndarray]) -> list[Node]:
    """The nodes of a file's entries; they are checked later."""
    owned = by_owner(tensors)
    nodes = []
    for entry in entries:
        shared = entry.pop("shared", {}) if isinstance(entry, dict) else {}
        in_bytes = entry.pop("bytes", []) if isinstance(entry, dict) else []
        check_entry(entry)
        if not isinstance(shared, dict) or not all(
            isinstance(n, str) and n in tensors for n in shared.values()
        ):
            raise ValueError(
                f"node {entry['name'][:100]!r}: shares {str(shared)[:100]}, which the file lacks"
            )
        arrays = owned.pop(entry["name"], {}) | {key: tensors[name] for key, name in shared.items()}
        _widen(arrays, in_bytes, entry["name"])
        nodes.append(
            Node(entry["name"], entry["op"], tuple(entry["inputs"]), entry["attributes"], arrays)
        )
    if owned:
        raise ValueError(f"holds tensors of no node: {', '.join(sorted(owned))[:100]}")
    return nodes


def _widen(arrays: dict[str, np.ndarray], in_bytes: Any, name: str) -> None:
    """Make the arrays that are kept `in_bytes` float32 again."""
    if not isinstance(in_bytes, list) or not all(isinstance(key, str) for key in in_bytes):
        raise ValueError(
            f"node {name[:100]!r}: its bytes are {str(in_bytes)[:100]}, expected a list of names"
        )
    nothing = np.empty(0, bool)
    for key in in_bytes:
        array, steps = arrays.get(key, nothing), arrays.pop(f"{key}_steps", nothing)
        if (array.dtype, steps.dtype) != (np.int8, np.float32) or steps.shape != array.shape[:1]:
            raise ValueError(
                f"node {name[:100]!r}: {key[:100]} is not kept as bytes and their steps"
            )
        arrays[key] = array * steps.reshape(-1, *[1] * (array.ndim - 1))
