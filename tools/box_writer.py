"""The file of a tracking run's boxes, CSV or JSON, which keeps what a run that breaks off has."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rbsf.system.files import write_atomically
from rbsf.system.lock import locked

FLUSH_SECONDS = 1.0  # between two writings of a CSV file

Row = dict[str, float | int]


class BoxWriter:
    """Writes boxes to `path`, .csv or .json; a context manager.

    CSV rows go about once a second to a file with `.part` appended, which even a killed run leaves.
    JSON is written at the end. The file gets its name when the block ends, also by an error.
    Raises ValueError where another process writes it, and OSError where writing fails, as on a full
    disk; the rows that are not in the file are then printed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._json = path.suffix.lower() == ".json"
        self._rows: list[Row] = []  # not written yet
        self._written = time.monotonic()
        self._size = 0  # bytes of whole rows in the file
        self._held = ExitStack()  # the lock

    def __enter__(self) -> BoxWriter:
        self._held.enter_context(locked(self.path))
        return self

    def add(self, rows: list[Row]) -> None:
        """Take a frame's rows, which all have the same columns."""
        self._rows += rows
        if not self._json and time.monotonic() - self._written >= FLUSH_SECONDS:
            self._write()

    def insert_column(self, name: str, place: int, value: float) -> None:
        """Give all rows so far one more column with the same value; `place` counts from 0.

        Raises OSError where that fails; the file is then as it was before.
        """
        if self._size:  # of a CSV file
            so_far = csv.DictReader(io.StringIO(self._part.read_text(encoding="ascii")))
            text = format_csv([_inserted(row, name, place, value) for row in so_far], header=True)
            write_atomically(self._part, text.encode("ascii"))
            self._size = len(text)
        self._rows = [_inserted(row, name, place, value) for row in self._rows]

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
        if self._json:
            text = json.dumps(self._rows, indent=1) + "\n"
        else:
            text = format_csv(self._rows, header=self._size == 0)
        try:
            append(self._part, text, self._size)
        except OSError as error:
            print(text, end="")
            rest = "the boxes not in it were printed instead"
            raise OSError(f"cannot write {self.path}: {error.strerror}; {rest}") from error
        finally:
            self._rows.clear()
        self._size += len(text)
        self._written = time.monotonic()


def _inserted(row: dict[str, Any], name: str, place: int, value: float) -> dict[str, Any]:
    columns = list(row.items())
    return dict([*columns[:place], (name, value), *columns[place:]])


def append(path: Path, text: str, size: int) -> None:
    """Write ASCII `text` after the first `size` bytes of a file, or a new file where `size` is 0.

    Raises OSError where that fails; the file is then as it was before.
    """
    try:
        with path.open("a" if size else "w", newline="", encoding="ascii") as file:
            file.write(text)
    except OSError:
        with suppress(OSError):  # there may be no file to cut back
            if size:
                os.truncate(path, size)
            else:
                path.unlink()
        raise


def format_csv(rows: list[Row], header: bool) -> str:
    """Rows as lines of CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        table.writeheader()
    table.writerows(rows)
    return text.getvalue()
