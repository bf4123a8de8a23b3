"""Reads users' text files: UTF-8, with or without the byte order mark that some editors add."""

from __future__ import annotations

from pathlib import Path


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises FileNotFoundError, and ValueError for a folder. If the text is not UTF-8, the ValueError
    names the line. A zero byte also counts as not UTF-8, since UTF-16 without a byte order mark has
    zero bytes.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    data = path.read_bytes()
    wrong = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong < 0:
        return text
    line = data.count(b"\n", 0, wrong) + 1
    raise ValueError(f"{path} line {line}: not UTF-8 text; save it as UTF-8{_guess(data)}")


def one_line(what: object, most: int | None = None) -> str:
    """The text of an error or other object in one line, of at most `most` characters."""
    return " ".join(str(what).split())[:most]


def listed(names: list[str], most: int = 3) -> str:
    """The first `most` names, separated by commas, with dots if there are more."""
    dots = ", ..." if len(names) > most else ""
    return ", ".join(names[:most]) + dots


def encode(text: str) -> bytes:
    """Text as UTF-8. Bytes of file names that are not UTF-8 become escapes, such as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Text that can be printed and stored anywhere.

    Bytes of file names that are not UTF-8 become escapes, such as `\\xe9`.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair that is not a byte of a file name
        return encode(text).decode()


def _guess(data: bytes) -> str:
    """A hint about the encoding if a file has another byte order mark or zero bytes; else empty."""
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data
    return " (it looks like UTF-16)" if is_utf16 else ""
