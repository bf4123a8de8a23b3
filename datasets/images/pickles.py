"""Read pickles of plain data from strangers: dicts, lists, tuples, strings, bytes, numbers, NumPy
arrays.

A pickle is a program that may call what it names. Here the few names that NumPy's arrays need stand
for objects of ours, which check what they are given and can do nothing else; every other name is
refused.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {
    "u1": np.uint8,
    "b1": np.bool_,
    "i1": np.int8,
    "i2": np.int16,
    "i4": np.int32,
    "i8": np.int64,
}
DTYPES |= {"f4": np.float32, "f8": np.float64}


def parse_pickle(content: bytes, path: Path) -> Any:
    """What a pickle of any protocol holds; strings of Python 2 come as bytes.

    ValueError, naming `path`, for what is no pickle, is damaged, or holds anything else.
    """
    try:
        return _plain(_Reader(io.BytesIO(content), encoding="bytes").load())
    except _Refused as error:
        raise ValueError(f"{path}: {error}; only plain data and arrays are read") from None
    except Exception as error:  # a damaged pickle fails in whatever way its bytes happen to say
        what = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise ValueError(
            f"{path}: not a pickle, cut short or damaged ({what}); fetch it again"
        ) from None


class _Refused(Exception):
    """A pickle asks for what is not plain data."""


class _Array:
    """Stands for an array while its pickle is read."""

    __slots__ = ("value",)
    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _make(content, dtype, shape, "F" if fortran else "C")


class _Type:
    """Stands for a dtype: one of DTYPES, little-endian."""

    __slots__ = ("dtype",)
    dtype: Any

    def __setstate__(self, state: Any) -> None:
        if _text(state[1]) not in ("<", "|", "="):
            raise _Refused(f"an array of byte order {_text(state[1])!r}")


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
            raise _Refused(f"an array of {_text(name)!r}")
        return made


class _FromBuffer(_Call):
    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
        made = _Array()
        made.value = _make(content, dtype, shape, "F" if _text(order) == "F" else "C")
        return made


class _Encode(_Call):
    """How Python 3 writes bytes for protocol 2: as Latin-1 text."""

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        return str(text).encode("latin1")


_NAMES: dict[tuple[str, str], _Call] = {
    ("_codecs", "encode"): _Encode(),
    ("numpy", "dtype"): _NewType(),
}
_NAMES |= {(f"numpy.{core}.multiarray", "_reconstruct"): _NewArray() for core in ("core", "_core")}
_NAMES |= {(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")}
_NAMES |= {("numpy", "ndarray"): _Call()}  # only ever an argument of _reconstruct


class _Reader(pickle._Unpickler):  # the one in C allocates whatever size a file names for its memo
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise _Refused(f"asks for {module}.{name}") from None


def _make(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not (isinstance(dtype, _Type) and isinstance(content, bytes | bytearray)):
        raise _Refused("an array of other things than numbers")
    kind = np.dtype(dtype.dtype)
    if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * kind.itemsize != len(
        content
    ):
        raise ValueError(f"an array of shape {shape} in {len(content)} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """Arrays in place of what stood for them, at the top and in a dict's values, where data sets
    have them.
    """
    if isinstance(value, dict):
        return {
            _text(k): _plain(v) if isinstance(v, _Array | _Type | _Call) else v
            for k, v in value.items()
        }
    if isinstance(value, _Type | _Call):
        raise ValueError("a name that stands alone")
    return value.value if isinstance(value, _Array) else value
