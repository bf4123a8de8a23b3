"""safetensors files: the same bytes for the same content, and a checksum of all content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

LENGTH_BYTES = 8  # size of the header's length, at the beginning of a file
ALIGNMENT = 8  # alignment of the tensors after the header


def in_order(data: bytes) -> bytes:
    """The safetensors file `data` with its metadata sorted by name.

    The safetensors library writes them in a different order in each process.
    """
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(data[LENGTH_BYTES:start])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + data[start:]


def checksum(text: str, tensors: Iterable[tuple[str, Any]]) -> str:
    """The SHA-256, in hex digits, of `text` and of the tensors' labels and bytes, in order."""
    sha = hashlib.sha256(text.encode())
    for label, content in tensors:
        sha.update(label.encode())
        sha.update(content)
    return sha.hexdigest()
