"""The packed file: a network as a graph of operations, with one bit per binary weight.

It is a safetensors file. Its metadata, all strings, are:

- `format`: "rbsf-graph-1"
- `task`: "tracker" or "classifier"
- `model`: a name
- `layers`: a JSON list of nodes in order of execution
- `info`: a JSON object
- `sha256`: the hex digest of the strings `task`, `model`, `layers`, `info`, then of the tensors
  sorted by name: name, dtype and shape as Python prints them, and the raw little-endian bytes

A node is {"name", "op", "inputs", "attributes"}. `op` names a module of `rbsf.engine.ops`, which
defines its attributes and tensors; `inputs` name earlier nodes. The tensors of a node NAME are
called NAME.KEY. A node that shares a tensor with another node also has "shared": {KEY: the tensor's
name}.

Weights that are whole multiples of a power of two are kept as bytes. They are listed in the node's
"bytes": [KEY] and stored as int8 `[O, ...]`, to be multiplied by NAME.KEY_steps, float32 `[O]`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node
from rbsf.system.files import write_atomically
from rbsf.system.tensor_file import checksum, in_order
from rbsf.system.text import one_line

FORMAT = "rbsf-graph-1"
FAMILY = "rbsf-graph"  # the format without its number
# Formats that earlier versions wrote, without their number, and the task of their files.
OLD_TASKS = {"rbsf-packed": "tracker", "rbsf-network": "classifier"}
TASKS = ("tracker", "classifier")
MAX_FILE_BYTES = 64 << 20
MAX_BYTE = 127


def write_packed(path: str | Path, packed: PackedModel) -> None:
    """Write a packed file; raises OSError if `path` cannot be written."""
    entries: list[dict[str, Any]] = []
    tensors: dict[str, np.ndarray] = {}
    names: dict[int, str] = {}  # names of the tensors in the file, by the array's id
    for node in packed.nodes:
        entry: dict[str, Any] = {"name": node.name, "op": node.op, "inputs": list(node.inputs)}
        entry["attributes"] = node.attributes
        for key, array in _smaller(node.tensors, entry).items():
            own = f"{node.name}.{key}"
            name = names.setdefault(id(array), own)
            tensors[name] = array  # as long as it exists, no other array has its id
            if name != own:
                entry.setdefault("shared", {})[key] = name
        entries.append(entry)
    metadata = {
        "format": FORMAT,
        "task": packed.task,
        "model": packed.model,
        "layers": json.dumps(entries, separators=(",", ":")),
        "info": json.dumps(packed.info),
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    whole = save(tensors, metadata | {"sha256": digest(metadata, tensors)})
    write_atomically(path, in_order(whole))


def _smaller(tensors: dict[str, np.ndarray], entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """`tensors` as a file keeps them; the names of those kept as bytes are added to `entry`."""
    kept: dict[str, np.ndarray] = {}
    for key, array in tensors.items():
        found = as_bytes(array)
        if found is None:
            kept[key] = array
        else:
            entry.setdefault("bytes", []).append(key)
            kept[key], kept[f"{key}_steps"] = found
    return kept


def as_bytes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Split `array` into int8 `[O, ...]` and powers of two, float32 `[O]`, with `array` as product.

    Returns None if there are no such numbers that give `array` exactly.
    """
    if array.dtype != np.float32 or array.ndim < 2 or not array.size:
        return None
    rows = array.reshape(len(array), -1).astype(np.float64)
    largest = np.abs(rows).max(1)
    needed = np.where(largest > 0, largest, 1) / MAX_BYTE
    step = np.exp2(np.ceil(np.log2(needed))).astype(np.float32)
    if not step.all():  # too small for a float32
        return None
    whole = np.rint(rows / step[:, None])
    if not np.array_equal(whole * step[:, None], rows):
        return None
    return whole.astype(np.int8).reshape(array.shape), step


def read_packed(path: str | Path) -> PackedModel:
    """Read and check a packed file.

    Raises FileNotFoundError, and ValueError in one line for a file that is cut off or changed,
    is of another format, is too large, or holds operations that are unknown or do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no packed file {path}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {size} bytes; packed files have at most {MAX_FILE_BYTES}")
    metadata, tensors = _read_safetensors(path)
    _check_metadata(metadata, tensors, path)
    entries = _read_json(metadata, "layers", list, path)
    info = _read_json(metadata, "info", dict, path)
    task = packed_task(metadata)
    try:
        nodes = _nodes(entries, tensors)
        if task not in TASKS:
            raise ValueError(f"its task is {metadata.get('task')!r}, expected {' or '.join(TASKS)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return PackedModel(metadata.get("model", ""), task, tuple(nodes), info, path)


def _check_metadata(metadata: dict[str, str], tensors: dict[str, np.ndarray], path: Path) -> None:
    """Raise ValueError for an unknown format, and for a file that was changed."""
    form = metadata.get("format", "")
    if form != FORMAT:
        raise ValueError(f"{path}: {_other_format(form)}")
    if digest(metadata, tensors) != metadata.get("sha256"):
        fault = "its bytes have changed since it was written (sha256)"
        raise ValueError(f"{path}: {fault}; copy or export it again")


def _other_format(form: str) -> str:
    """What to say of a file of the format `form`, which is not FORMAT."""
    family = _family(form)
    if family != FAMILY and family not in OLD_TASKS:
        return "no packed network"
    advice = "get a newer version" if family == FAMILY else "export its weights file again"
    return f"its format is {one_line(form, 50)}, and this version reads {FORMAT}; {advice}"


def _family(form: str) -> str:
    """A format without its number."""
    return form.rpartition("-")[0]


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata in a file's header; empty if the file is missing or no safetensors file."""
    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):  # loading the file reports the error
        return {}


def packed_task(metadata: dict[str, str]) -> str:
    """The task of a packed file, one of TASKS; empty for the metadata of another file."""
    family = _family(metadata.get("format", ""))
    return metadata.get("task", "") if family == FAMILY else OLD_TASKS.get(family, "")


def digest(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> str:
    """The value that `sha256` must have; the module's docstring defines it."""
    text = "".join(metadata.get(key, "") for key in ("task", "model", "layers", "info"))
    return checksum(text, (_part(name, tensors[name]) for name in sorted(tensors)))


def _part(name: str, array: np.ndarray) -> tuple[str, bytes]:
    """The part of the digest's input that comes from one tensor."""
    little_endian = array.astype(array.dtype.newbyteorder("<"))
    return f"{name}{array.dtype}{array.shape}", little_endian.tobytes()


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safe_open(path, "numpy") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except Exception as error:  # the parser may raise any error on a damaged file
        reason = one_line(error, 100)
        fault = f"not a whole safetensors file ({reason})"
        raise ValueError(f"{path}: {fault}; copy or export it again") from None


def _read_json(metadata: dict[str, str], key: str, kind: type, path: Path) -> Any:
    try:
        value = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        fault = f"its metadata {key!r} is no JSON {kind.__name__}"
        raise ValueError(f"{path}: {fault}; copy or export it again")
    return value


def _nodes(entries: list[Any], tensors: dict[str, np.ndarray]) -> list[Node]:
    """The nodes of a file; they are checked later."""
    owned = _by_owner(tensors)
    nodes = [_node(entry, owned, tensors) for entry in entries]
    if owned:
        raise ValueError(f"holds tensors of no node: {', '.join(sorted(owned))[:100]}")
    return nodes


def _by_owner(tensors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Tensors by the name of their node, the part before the last dot."""
    owned: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        owner, _, key = name.rpartition(".")
        owned.setdefault(owner, {})[key] = array
    return owned


def _node(
    entry: Any, owned: dict[str, dict[str, np.ndarray]], tensors: dict[str, np.ndarray]
) -> Node:
    """The node of an entry; its own tensors are removed from `owned`."""
    is_object = isinstance(entry, dict)
    shared = entry.pop("shared", {}) if is_object else {}
    in_bytes = entry.pop("bytes", []) if is_object else []
    _check_entry(entry)
    name = entry["name"]
    if not _are_shared(shared, tensors):
        fault = f"shares {str(shared)[:100]}, which the file lacks"
        raise ValueError(f"node {name[:100]!r}: {fault}")
    arrays = owned.pop(name, {}) | {key: tensors[source] for key, source in shared.items()}
    _widen(arrays, in_bytes, name)
    return Node(name, entry["op"], tuple(entry["inputs"]), entry["attributes"], arrays)


def _check_entry(entry: Any) -> None:
    """Raise ValueError if `entry` is not a node: {"name", "op", "inputs", "attributes"}."""
    expected = {"name": str, "op": str, "inputs": list, "attributes": dict}
    if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != expected:
        raise ValueError(f"a node is {str(entry)[:100]}, expected name, op, inputs, attributes")
    if not all(isinstance(name, str) for name in entry["inputs"]):
        found = str(entry["inputs"])[:100]
        raise ValueError(f"node {entry['name'][:100]!r}: inputs are {found}, expected names")


def _are_shared(shared: Any, tensors: dict[str, np.ndarray]) -> bool:
    """Whether the file has all tensors that a node shares."""
    if not isinstance(shared, dict):
        return False
    return all(isinstance(name, str) and name in tensors for name in shared.values())


def _widen(arrays: dict[str, np.ndarray], in_bytes: Any, name: str) -> None:
    """Convert the arrays named in `in_bytes` back to float32."""
    if not isinstance(in_bytes, list) or not all(isinstance(key, str) for key in in_bytes):
        fault = f"its bytes are {str(in_bytes)[:100]}, expected a list of names"
        raise ValueError(f"node {name[:100]!r}: {fault}")
    nothing = np.empty(0, bool)
    for key in in_bytes:
        array, steps = arrays.get(key, nothing), arrays.pop(f"{key}_steps", nothing)
        if (array.dtype, steps.dtype) != (np.int8, np.float32) or steps.shape != array.shape[:1]:
            fault = f"{key[:100]} is not kept as bytes and their steps"
            raise ValueError(f"node {name[:100]!r}: {fault}")
        arrays[key] = array * steps.reshape(-1, *[1] * (array.ndim - 1))
