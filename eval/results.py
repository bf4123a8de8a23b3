"""Result files, in the form in which the got10k toolkit writes and reads them.

OTB, UAV123: ``TRACKER/NAME.txt`` (x,y,w,h a line, in the coordinates of the data set's files) and
``TRACKER/times/NAME_time.txt`` (seconds); further runs under ``TRACKER.run2`` and so on. GOT-10k:
``TRACKER/NAME/NAME_001.txt`` and ``TRACKER/NAME/NAME_time.txt`` with a column per run. The times
file begins with a comment, which the toolkit skips: two fingerprints of the sequence that was
tracked, `stamp` and `fingerprint`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from rbsf.datasets.video import index
from rbsf.datasets.video.layouts import otb_name
from rbsf.datasets.video.sequences import Sequence
from rbsf.system.files import write_atomically
from rbsf.system.text import read_text

TEXT_FILES = (
    "[!.]*.txt"  # a process that is killed while it writes leaves a file that begins with a dot
)
OMITTED = {"Tiger1": 5}  # frames at the start of OTB's sequences that pytracking leaves out
ADVICE = "replace it, or delete it to run the sequence again"


@dataclass(frozen=True)
class Run:
    """A tracker's boxes x,y,w,h (N, 4) in a sequence, 0-based, and its ``seconds`` per frame (N,),
    without decoding.
    """

    boxes: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class ResultStore:
    """The results of one tracker on one benchmark, in ``folder``."""

    folder: Path
    per_sequence: bool = False  # GOT-10k's form: a folder a sequence

    def boxes_path(self, name: str, run: int = 1) -> Path:
        """File of the boxes of a run, counted from 1."""
        if self.per_sequence:
            return self.folder / name / f"{name}_{run:03d}.txt"
        return self._run_folder(run) / f"{name}.txt"

    def times_path(self, name: str, run: int = 1) -> Path:
        """File of the seconds of a run; of all runs in GOT-10k's form."""
        folder = self.folder / name if self.per_sequence else self._run_folder(run) / "times"
        return folder / f"{name}_time.txt"

    def failure_path(self, name: str) -> Path:
        """File that says why a sequence could not be tracked."""
        return self.folder / "failed" / f"{name}.txt"

    def _run_folder(self, run: int) -> Path:
        return self.folder if run == 1 else self.folder.with_name(f"{self.folder.name}.run{run}")

    def save(self, sequence: Sequence, result: Run, number: int = 1) -> None:
        """Write a run: boxes first, so that a run with times is whole. Raises OSError where it
        cannot be written.
        """
        columns, column = [], self._column(number)
        if self.per_sequence:
            with suppress(ValueError):  # a damaged file: the other runs count as not run
                columns = self._columns(sequence, number)
        columns += [np.full(len(sequence), np.nan)] * (column + 1 - len(columns))
        columns[column] = result.seconds
        times = _text(
            np.stack(columns, axis=1), "%.8f", f"{stamp(sequence)} {fingerprint(sequence)}"
        )
        write_atomically(
            self.boxes_path(sequence.name, number), _text(result.boxes + _shift(sequence), "%.3f")
        )
        write_atomically(self.times_path(sequence.name, number), times)
        with suppress(FileNotFoundError):
            self.failure_path(sequence.name).unlink()

    def save_failure(self, sequence: Sequence, reason: str) -> None:
        """Record why a sequence could not be tracked."""
        write_atomically(
            self.failure_path(sequence.name), (reason + "\n").encode(errors="backslashreplace")
        )

    def failures(self) -> dict[str, str]:
        """What ``save_failure`` recorded: {sequence: reason}."""
        return {
            path.stem: read_text(path).strip()
            for path in sorted((self.folder / "failed").glob(TEXT_FILES))
        }

    def forget(self, name: str, number: int = 1) -> None:
        """Remove a run's boxes, if there are any, so that it is run again."""
        self.boxes_path(name, number).unlink(missing_ok=True)

    def load(self, sequence: Sequence, number: int = 1) -> Run | None:
        """Read what ``save`` wrote; None if there is none, or one of other frames or another first
        box.

        Raises ValueError, naming the file, for a damaged one and one of another length.
        """
        path, column = self.boxes_path(sequence.name, number), self._column(number)
        columns = self._columns(sequence, number) if path.is_file() else []
        if column >= len(columns) or np.isnan(columns[column]).any():
            return None
        return Run(read_result(path, len(sequence)) - _shift(sequence), columns[column])

    def _column(self, number: int) -> int:
        return number - 1 if self.per_sequence else 0

    def _columns(self, sequence: Sequence, number: int) -> list[np.ndarray]:
        """Seconds of each run in a file of times; none if the file is of other frames or another
        first box.
        """
        path = self.times_path(sequence.name, number)
        if not path.is_file() or not _is_of(
            path.read_text(errors="replace").partition("\n")[0], sequence
        ):
            return []
        table = _table(path)
        if len(table) != len(sequence):
            raise ValueError(
                f"{path} holds {len(table)} times but the sequence {len(sequence)} frames; {ADVICE}"
            )
        return list(table.T)


def fingerprint(sequence: Sequence) -> str:
    """Digest of what a tracker's boxes depend on, wherever it lies: name, length, first box, and
    the bytes of the frames' files.
    """
    what = f"{_start(sequence)} {_content(sequence.files(), stamp(sequence))}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def stamp(sequence: Sequence) -> str:
    """Digest of the same, but for the files' sizes and times in place of their bytes: known without
    reading them.
    """
    return index.fingerprint([(_start(sequence), [Path(file) for file in sequence.files()])])[:16]


def _start(sequence: Sequence) -> str:
    return f"{sequence.name} {len(sequence)} {sequence.boxes[annotated(sequence)[:1]].tolist()}"


@lru_cache(maxsize=1024)  # of a sequence all trackers ask
def _content(files: tuple[str, ...], state: str) -> str:
    """Digest of the bytes of files in this state; one that is missing has none."""
    digest = hashlib.sha256()
    for path in files:
        with suppress(OSError), open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            digest.update(f" {file.tell()} ".encode())
    return digest.hexdigest()


def _is_of(head: str, sequence: Sequence) -> bool:
    """Whether times with this first line are of this sequence as it is. Its frames are read where
    their sizes or times are others, as a copy's may be.
    """
    words = head.split()
    return len(words) == 3 and (words[1] == stamp(sequence) or words[2] == fingerprint(sequence))


def annotated(sequence: Sequence) -> np.ndarray:
    """Numbers of the frames whose box is known."""
    return np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))


def read_result(path: Path, frames: int) -> np.ndarray:
    """Read x,y,w,h lines (comma, tab or space), (``frames``, 4) as they stand. Raises ValueError
    naming the file.
    """
    boxes = _table(path)
    if boxes.shape[1:] != (4,):
        raise ValueError(
            f"{path} is damaged (found {boxes.shape[1]} values a line, not x,y,w,h); {ADVICE}"
        )
    if len(boxes) != frames:
        raise ValueError(
            f"{path} holds {len(boxes)} boxes but the sequence {frames} frames; "
            + _advice(path, frames - len(boxes))
        )
    return boxes


def _advice(path: Path, lacking: int) -> str:
    """What to do about a file with so many boxes too few."""
    name = otb_name(path.stem)
    if OMITTED.get(name) != lacking:
        return ADVICE
    return f"pytracking leaves out the first {lacking} of {name}; put {lacking} lines in front"


def by_name(files: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Files with the names of their sequences, by these names as OTB has them."""
    found: dict[str, list[Path]] = {}
    for name, path in files:
        found.setdefault(otb_name(name), []).append(path)
    return found


def the_only(found: list[Path], name: str) -> Path:
    """The file of the sequence `name`. Raises ValueError where there are several."""
    if len(found) > 1:
        raise ValueError(f"{' and '.join(map(str, found))} are all of {name}; keep one")
    return found[0]


def read_result_folder(folder: Path) -> Callable[[Sequence], Run | None]:
    """Reader of boxes that exist already, one text file a sequence, ``NAME.txt`` or
    ``NAME/NAME_001.txt``; seconds are zeros where the toolkit's file of times is not beside them.

    Raises FileNotFoundError for no such folder, ValueError for one without text files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"results folder {folder} does not exist")
    files = by_name((path.stem, path) for path in sorted(folder.glob(TEXT_FILES)))
    for name, found in by_name((p.parent.name, p) for p in folder.glob("*/*_001.txt")).items():
        files.setdefault(name, []).extend(found)
    if not files:
        raise ValueError(
            f"{folder} holds no results: expected NAME.txt with x,y,w,h lines, or NAME/NAME_001.txt"
        )

    def load(sequence: Sequence) -> Run | None:
        found = files.get(otb_name(sequence.name))  # a video may be called Jogging-1
        if found is None:
            return None
        path = the_only(found, sequence.name)
        boxes = read_result(path, len(sequence))
        return Run(boxes - _shift(sequence), _seconds(path, len(boxes)))

    return load


def _seconds(boxes: Path, count: int) -> np.ndarray:
    folder = boxes.parent.name  # the sequence's, in GOT-10k's form
    name = folder if boxes.stem == f"{folder}_001" else boxes.stem
    for path in (boxes.parent / "times" / f"{name}_time.txt", boxes.parent / f"{name}_time.txt"):
        if path.is_file() and len(table := _table(path)) == count:
            return np.nan_to_num(table[:, 0])
    return np.zeros(count)


def _shift(sequence: Sequence) -> np.ndarray:
    return np.array([1.0, 1.0, 0.0, 0.0]) * sequence.one_based


def _text(rows: np.ndarray, form: str, head: str = "") -> bytes:
    buffer = io.StringIO()
    np.savetxt(buffer, rows, fmt=form, delimiter=",", header=head)
    return buffer.getvalue().encode()


def _table(path: Path) -> np.ndarray:
    try:
        text = read_text(path).replace(",", " ")
        if not text.strip():
            raise ValueError("it is empty")
        return np.loadtxt(io.StringIO(text), ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {ADVICE}") from None
