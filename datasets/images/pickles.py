"""Read pickles from strangers, if they hold plain data.

Plain data are dicts, lists, tuples, strings, bytes, numbers and NumPy arrays. A pickle is a program
that may call any function that it names. Here the few names that NumPy's arrays need stand for
objects of ours, which check their arguments and make arrays. Every other name is refused.

Reading takes memory and time in proportion to the file's length: lengths are checked before memory
is allocated; keys of dicts hold no nested tuples, whose hash may never end; only text becomes text.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rbsf.system.text import one_line

SETS = ("EMPTY_SET", "ADDITEMS", "FROZENSET")  # plain data have no sets, and a set hashes its items
DTYPES = {
    "u1": np.uint8,
    "b1": np.bool_,
    "i1": np.int8,
    "i2": np.int16,
    "i4": np.int32,
    "i8": np.int64,
    "f4": np.float32,
    "f8": np.float64,
}


def parse_pickle(content: bytes, path: Path) -> Any:
    """Read the content of a pickle of any protocol; strings of Python 2 become bytes.

    Raises ValueError, naming `path`, if it is not a pickle, is damaged, or holds other objects.
    """
    try:
        _check_operations(content)
        return _plain(_Reader(content).load())
    except _Refused as error:
        raise ValueError(f"{path}: {error}; only plain data and arrays are read") from None
    except Exception as error:  # a damaged pickle may fail in any way
        what = one_line(f"{type(error).__name__}: {error}", 100)
        fault = f"not a pickle, cut short or damaged ({what})"
        raise ValueError(f"{path}: {fault}; fetch it again") from None


def _check_operations(content: bytes) -> None:
    """Raise ValueError if a length exceeds the file, and _Refused for a set."""
    for operation, _, _ in pickletools.genops(content):
        if operation.name in SETS:
            raise _Refused(f"asks for {operation.name}")


class _Refused(Exception):
    """A pickle asks for something that is not plain data."""


class _Array:
    """Stands for an array while its pickle is read."""

    __slots__ = ("value",)
    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _make(content, dtype, shape, "F" if fortran else "C")


class _Type:
    """Stands for a dtype: one of `DTYPES`, little-endian."""

    __slots__ = ("dtype",)
    dtype: Any

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1])
        if order not in ("<", "|", "="):
            raise _Refused(f"an array of byte order {order[:40]!r}")


class _Call:
    """A name that a pickle may call."""

    __slots__ = ()


class _NewArray(_Call):
    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _NewType(_Call):
    def __call__(self, name: Any, *_: Any) -> _Type:
        made = _Type()
        made.dtype = DTYPES.get(_text(name).lstrip("<|="))
        if made.dtype is None:
            raise _Refused(f"an array of {_text(name)[:40]!r}")
        return made


class _FromBuffer(_Call):
    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
        made = _Array()
        made.value = _make(content, dtype, shape, _text(order))
        return made


class _Encode(_Call):
    """Makes bytes of Latin-1 text, which is how Python 3 writes bytes for protocol 2.

    Each text is in the file once, so all bytes together are no more than the file's.
    """

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left  # bytes that may still be made

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str):
            raise _Refused("bytes that are not made of text")
        self.left -= len(text)
        if self.left < 0:
            raise _Refused("more bytes than the file has")
        return text.encode("latin1")


_NAMES: dict[tuple[str, str], _Call] = {
    ("numpy", "dtype"): _NewType(),
    ("numpy", "ndarray"): _Call(),  # only ever an argument of _reconstruct
    ("numpy.core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy._core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer(),
}


class _Dict(dict):  # type: ignore[type-arg]
    """A dict whose keys are text."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_text(key), value)


# The reader written in C allocates its memo at any size that a file names, so it is not used.
class _Reader(pickle._Unpickler):
    append: Callable[[Any], None]  # mypy knows the C reader's types, which lack these two
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._names = {**_NAMES, ("_codecs", "encode"): _Encode(len(content))}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise _Refused(f"asks for {module[:40]}.{name[:40]}") from None

    def load_empty_dictionary(self) -> None:
        self.append(_Dict())

    def load_dict(self) -> None:
        items = self.pop_mark()
        made = _Dict()
        for key, value in zip(items[::2], items[1::2], strict=True):
            made[key] = value
        self.append(made)

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary
    dispatch[pickle.DICT[0]] = load_dict


def _make(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """An array of these bytes. With `order` "F" the first axis varies fastest, else the last."""
    if not (isinstance(dtype, _Type) and isinstance(content, bytes | bytearray)):
        raise _Refused("an array of other things than numbers")
    kind = np.dtype(dtype.dtype)
    if not (isinstance(shape, tuple) and len(shape) < 9 and all(map(_is_size, shape))):
        raise _Refused("an array whose shape is not of a few whole numbers")
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} in {len(content)} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C")


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 40


def _text(value: Any) -> str:
    if not isinstance(value, str | bytes):
        raise _Refused("a name that is not text")
    return value.decode("latin1") if isinstance(value, bytes) else value


def _plain(value: Any) -> Any:
    """Replace the objects that stand for arrays by arrays, at the top and in a dict's values.

    Data sets have arrays nowhere else.
    """
    if isinstance(value, dict):
        return {key: _plain_value(inner) for key, inner in value.items()}
    return _plain_value(value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Type | _Call):
        raise ValueError("it holds a bare class")
    return value
