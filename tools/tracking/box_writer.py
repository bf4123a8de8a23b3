"""Write the boxes of a tracking run to a file, and keep them if the run breaks off."""

from __future__ import annotations

import csv
import io
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rbsf.system.files import write_atomically
from rbsf.system.lock import locked_name
from rbsf.tools.tracking.box_forms import FORMS, Row, Size, form_of

FLUSH_SECONDS = 1.0  # between two writes to a file that grows by rows
ENCODING = ("utf-8", "surrogateescape")  # names of files need not be UTF-8


class BoxWriter:
    """Writes boxes to `path` in the format of its ending (`box_forms.FORMS`); a context manager.

    Rows of CSV and MOT are written about once a second to a file with `.part` appended, which
    remains even if the run is killed. JSON and COCO are written at the end. The file gets its name
    when the block ends, even after an error. `count_up`: if the name is taken, NAME_2 and so on is
    used instead; `path` is then that name. Raises ValueError for another ending, and if another
    process writes the file. Raises OSError if writing fails, as on a full disk, after printing the
    rows that are not in the file.
    """

    def __init__(self, path: Path, count_up: bool = False) -> None:
        self.path, self._count_up = path, count_up
        self._form = form_of(path)
        self._rows: list[Row] = []  # not written yet
        self._sizes: dict[int, Size] = {}  # frames whose rows are not written yet
        self._written = time.monotonic()
        self._size = 0  # bytes of whole rows in the file
        self._held = ExitStack()  # the lock

    @property
    def _part(self) -> Path:
        return part_of(self.path)

    def __enter__(self) -> BoxWriter:
        self.path = self._held.enter_context(locked_name(self.path, self._count_up, part_of))
        return self

    def add(self, rows: list[Row], size: Size = (0, 0)) -> None:
        """Add the rows of a frame of `size` (width, height). All rows have the same columns."""
        self._rows += rows
        self._sizes |= {int(row["frame"]): size for row in rows[:1]}
        if self._form.grows and time.monotonic() - self._written >= FLUSH_SECONDS:
            self._write()

    def name_targets(self) -> None:
        """Give all rows so far a column `target` behind `time`, as a second target is coming.

        They are of target 1. Raises OSError if that fails; the file is then unchanged.
        """
        if self._size and self._form is FORMS[".csv"]:  # other formats have no columns
            so_far = csv.DictReader(io.StringIO(self._part.read_bytes().decode(*ENCODING)))
            rows = [_of_first_target(row) for row in so_far]
            data = self._form.text(rows, {}, True).encode(*ENCODING)
            write_atomically(self._part, data)
            self._size = len(data)
        self._rows = [_of_first_target(row) for row in self._rows]

    def __exit__(self, *_: object) -> None:
        with self._held:
            try:
                if self._rows:
                    self._write()
            finally:
                if self._size:
                    os.replace(self._part, self.path)
                    print(f"boxes: {self.path}")

    def _write(self) -> None:
        text = self._form.text(self._rows, self._sizes, self._size == 0)
        try:
            append(self._part, text, self._size)
        except OSError as error:
            print(text, end="")
            rest = "the boxes not in it were printed instead"
            raise OSError(f"cannot write {self.path}: {error.strerror}; {rest}") from error
        finally:
            self._rows.clear()
            self._sizes.clear()
        self._size += len(text.encode(*ENCODING))
        self._written = time.monotonic()


def part_of(path: Path) -> Path:
    """The file of boxes until the run ends."""
    return path.with_name(path.name + ".part")


def _of_first_target(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the column `target` behind `frame` and `time`."""
    columns = list(row.items())
    return dict([*columns[:2], ("target", 1), *columns[2:]])


def append(path: Path, text: str, size: int) -> None:
    """Write `text` after the first `size` bytes of a file, or a new file if `size` is 0.

    Raises OSError if that fails; the file is then unchanged.
    """
    encoding, errors = ENCODING
    try:
        with path.open("a" if size else "w", newline="", encoding=encoding, errors=errors) as file:
            file.write(text)
    except OSError:
        with suppress(OSError):  # there may be no file to shorten
            if size:
                os.truncate(path, size)
            else:
                path.unlink()
        raise
