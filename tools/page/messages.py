"""Messages between page and server.

The page sends JSON, `{"do": NAME, ...}`. With a picture, a message is binary: the length of the
JSON in 4 bytes, big-endian, the JSON, then the picture. The server answers each message with one of
the same two forms, whose JSON has a `type`. Only then does the page send its next message.
"""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rbsf.tools.page.settings import Refused

LENGTH = struct.Struct(">I")
MOST_BYTES = 4_000_000  # largest message from the page
MOST_CANCEL = 100  # largest message that cancels; it is read while work goes on
HIGHEST = 10**9  # largest number in a message
NOT_UNDERSTOOD = "the server did not understand the page's message"


@dataclass(frozen=True)
class Message:
    """A message of the page: its action, its fields, and the picture that comes with it."""

    do: str
    fields: dict[str, Any]
    picture: bytes = b""

    def whole(self, name: str) -> int:
        """A field that is a whole number from 0."""
        value = self.fields.get(name)
        if type(value) is not int or not 0 <= value <= HIGHEST:
            raise Refused(f"{NOT_UNDERSTOOD}: {name} is no whole number from 0")
        return value

    def number(self, name: str) -> float:
        """A field that is a number from -HIGHEST to HIGHEST."""
        value = self.fields.get(name)
        if not isinstance(value, (int, float)) or not -HIGHEST <= value <= HIGHEST:
            raise Refused(f"{NOT_UNDERSTOOD}: {name} is no number that can be used")
        return float(value)

    def text(self, name: str) -> str:
        """A field that is text."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise Refused(f"{NOT_UNDERSTOOD}: {name} is no text")
        return value

    def texts(self, name: str) -> list[str]:
        """A field that is a list of text."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise Refused(f"{NOT_UNDERSTOOD}: {name} is no list of names")
        return value

    def box(self) -> list[float]:
        """The field `box`: x, y, w, h."""
        values = self.fields.get("box")
        if not isinstance(values, list) or len(values) != 4:
            raise Refused(f"{NOT_UNDERSTOOD}: box is not x, y, w and h")
        numbers = Message("box", dict(zip("xywh", values, strict=True)))
        return [numbers.number(side) for side in "xywh"]


def is_cancel(data: str | bytes) -> bool:
    """Whether a message ends the work on the one before it, and has no answer of its own."""
    if not isinstance(data, str) or len(data) > MOST_CANCEL:
        return False
    with suppress(Refused):
        return parse(data).do == "cancel"
    return False


def parse(data: str | bytes) -> Message:
    """The message that the page sent. Raises Refused for anything else."""
    text, picture = data, b""
    if isinstance(data, bytes):
        if len(data) < LENGTH.size:
            raise Refused(f"{NOT_UNDERSTOOD}: it is cut short")
        end = LENGTH.size + LENGTH.unpack_from(data)[0]
        text, picture = data[LENGTH.size : end], data[end:]
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused(f"{NOT_UNDERSTOOD}: it is not JSON") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("do"), str):
        raise Refused(f'{NOT_UNDERSTOOD}: it has no "do"')
    return Message(fields["do"], fields, picture)


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads but JSON does not have."""
    raise ValueError(name)


def pack(header: dict[str, Any], data: bytes) -> bytes:
    """Make a binary message to the page."""
    text = json.dumps(header, allow_nan=False).encode()
    return LENGTH.pack(len(text)) + text + data
