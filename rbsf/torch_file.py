"""Reads `torch.save` files from any source: it runs no code in them and limits their memory.

The files are zip archives. Their parts have checksums (CRC-32), which torch itself does not check.
Files from before PyTorch 1.6 are a sequence of pickles, without checksums.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rbsf.system.text import one_line

ZIP_START = b"PK\x03\x04"
OLD_PICKLES = 5  # number of pickles in a file from before PyTorch 1.6
NEW_PICKLES = (b"\x80\x04\x95", b"\x80\x05\x95")  # Python's default, which torch does not write
MOST_EXPANSION = 4  # most bytes of tensors for a byte of the file; tied weights count twice
# The names that a pickle of tensors may call; torch would also make bytes and sets of any size.
CALLED = re.compile(
    r"torch \w+Storage|torch\.storage \w+Storage|collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch (Size|device)"
)
# The errors that a damaged pickle raises.
ENDS = (ValueError, EOFError, IndexError, OverflowError, UnicodeDecodeError)


def read_torch(path: str | Path, what: str, advice: str) -> Any:
    """Read a `torch.save` file to the CPU: tensors, numbers, strings, and lists and dicts of them.

    Raises ValueError in one line, "not a whole `what`" or "holds pickled code"; the line ends with
    `advice`. Warns if the file has no checksums.
    """
    path = Path(path)
    try:
        if code := _code_in(_pickles_of(path)):
            fault = f"holds pickled code, which is not loaded ({code})"
            raise _Refused(fault)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they name pickle protocols that raise an error anyway
            value = torch.load(path, map_location="cpu", weights_only=True)
        _check_expansion(value, path)
    except _Refused as error:
        raise ValueError(f"{path}: {first_line(error)}; {advice}") from None
    except Exception as error:  # torch's parser may raise any error on damaged bytes
        raise ValueError(f"{path}: not a whole {what} ({first_line(error)}); {advice}") from None
    if not _is_zip(path):
        warnings.warn(f"{path}: has no checksum, so damage cannot be noticed", stacklevel=2)
    return value


def first_line(error: BaseException) -> str:
    """The message of a parser's error, in one line of at most 200 characters."""
    message = str(error).rpartition("WeightsUnpickler error:")[2]  # leaves out torch's advice
    text = one_line(message, 200)
    if " " in text:
        return text
    return f"{type(error).__name__} {text}".strip()  # a bare key, or nothing, says too little


class _Refused(Exception):
    """An undamaged file is not loaded; the message says why."""


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def _pickles_of(path: Path) -> bytes:
    """The bytes with a file's pickles; the parts of an archive are checked first."""
    if not _is_zip(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > path.stat().st_size:
            raise _Refused("its parts are larger than the file")
        if changed := archive.testzip():
            raise _Refused(f"its part {changed} has changed since it was written (CRC-32)")
        return archive.read(next(p for p in parts if p.filename.endswith("/data.pkl")))


def _code_in(content: bytes) -> str:
    """The first call in the pickles that tensors do not need, such as "builtins print"; or "".

    Raises ValueError if the first pickle is damaged after such a call.
    """
    stream, found, whole = io.BytesIO(content), "", 0
    try:
        while whole < OLD_PICKLES and not found:
            found = _code_in_one(stream)
            whole += 1
    except _Damaged as error:
        found = str(error)
    if found and not whole:
        raise ValueError(f"damaged behind {found}")
    return found


class _Damaged(Exception):
    """A damaged pickle; the message names the code that it called before the damage, if any."""


def _code_in_one(stream: io.BytesIO) -> str:
    """As `_code_in`, for the next pickle of `stream`. Raises _Damaged."""
    called: list[str] = []
    is_new = stream.getvalue().startswith(NEW_PICKLES)
    try:
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "GLOBAL":
                called.append(one_line(argument, 100))
            elif operation.name == "STACK_GLOBAL" and is_new:
                called.append("names of its own")
    except ENDS:
        raise _Damaged(next(filter(_is_code, called), "")) from None
    return next(filter(_is_code, called), "")


def _is_code(name: str) -> bool:
    return not CALLED.fullmatch(name)


def _check_expansion(value: Any, path: Path) -> None:
    """Raise _Refused if the tensors in `value` are far larger than the file."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors_in(value))
    if size > MOST_EXPANSION * path.stat().st_size:
        raise _Refused(f"its tensors would take {size:,} bytes, far more than the file has")


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists, each once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
