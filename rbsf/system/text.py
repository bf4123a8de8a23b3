"""Text files of users: UTF-8, with or without the byte order mark that some editors put first."""

from __future__ import annotations

from pathlib import Path


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises FileNotFoundError, and ValueError that names the file and line where it is not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} line {line}: not UTF-8 text; save it as UTF-8{_guess(data)}"
        ) from None


def encode(text: str) -> bytes:
    """Text as UTF-8. Bytes of file names that are none become escapes, such as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Text that can be printed and stored anywhere: escapes in place of what `encode` escapes."""
    return encode(text).decode()


def _guess(data: bytes) -> str:
    """What encoding a file has that begins with another byte order mark."""
    marks = (b"\xff\xfe", b"\xfe\xff")
    return " (it looks like UTF-16)" if data.startswith(marks) else ""
