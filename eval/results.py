"""Result files in the format of the got10k toolkit.

A file of boxes has a line x,y,w,h per frame, in the coordinates of the data set's files; a file of
times has a line of seconds per frame.

OTB, UAV123: `TRACKER/NAME.txt` and `TRACKER/times/NAME_time.txt`; further runs lie in
`TRACKER.run2` and so on. GOT-10k: `TRACKER/NAME/NAME_001.txt` and `TRACKER/NAME/NAME_time.txt`, the
latter with a column per run.

A file of times begins with a comment, which the toolkit skips. It holds two digests of the sequence
that was tracked, `stamp` and `fingerprint`.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from rbsf.datasets.video.layouts import otb_name
from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.metrics import overlaps
from rbsf.system.files import state_digest, write_atomically
from rbsf.system.text import encode, read_text

# A process that is killed while writing leaves a file whose name begins with a dot.
TEXT_FILES = "[!.]*.txt"
OMITTED = {"Tiger1": 5}  # frames at the start of OTB's sequences that pytracking leaves out
LEAST_OVERLAP = 0.5  # of a first result box with the true one
ADVICE = "replace it, or delete it to run the sequence again"
ADVICE_TO_OTHERS = "write a line x,y,w,h for each frame, with commas, tabs or spaces between"


@dataclass(frozen=True)
class Run:
    """What a tracker found in a sequence."""

    boxes: np.ndarray  # [N, 4] x,y,w,h, pixels, 0-based
    seconds: np.ndarray  # [N], time for each frame, without decoding


@dataclass(frozen=True)
class ResultStore:
    """The results of one tracker on one benchmark, in `folder`."""

    folder: Path
    per_sequence: bool = False  # one folder for each sequence, as in GOT-10k's form

    def boxes_path(self, name: str, run: int = 1) -> Path:
        """File of the boxes of a run, counted from 1."""
        if self.per_sequence:
            return self.folder / name / f"{name}_{run:03d}.txt"
        return self._run_folder(run) / f"{name}.txt"

    def times_path(self, name: str, run: int = 1) -> Path:
        """File of the seconds of a run, or in GOT-10k's form of all runs."""
        folder = self.folder / name if self.per_sequence else self._run_folder(run) / "times"
        return folder / f"{name}_time.txt"

    def failure_path(self, name: str) -> Path:
        """File that says why a sequence could not be tracked."""
        return self.folder / "failed" / f"{name}.txt"

    def _run_folder(self, run: int) -> Path:
        return self.folder if run == 1 else self.folder.with_name(f"{self.folder.name}.run{run}")

    def save(self, sequence: Sequence, result: Run, number: int = 1) -> None:
        """Write a run, the boxes first, so that a run with times is complete.

        Raises OSError if it cannot be written.
        """
        boxes = as_lines(result.boxes + _shift(sequence), "%.3f")
        seconds = np.stack(self._with_run(sequence, result, number), axis=1)
        times = as_lines(seconds, "%.8f", f"{stamp(sequence)} {fingerprint(sequence)}")
        write_atomically(self.boxes_path(sequence.name, number), boxes)
        write_atomically(self.times_path(sequence.name, number), times)
        self.failure_path(sequence.name).unlink(missing_ok=True)

    def _with_run(self, sequence: Sequence, result: Run, number: int) -> list[np.ndarray]:
        """The columns of the file of times, including those of other runs that it already holds."""
        columns: list[np.ndarray] = []
        if self.per_sequence:
            with suppress(ValueError):  # nothing is kept of a damaged file
                columns = self._columns(sequence, number)
        column = self._column(number)
        missing = column + 1 - len(columns)
        columns += [np.full(len(sequence), np.nan)] * missing
        columns[column] = result.seconds
        return columns

    def save_failure(self, sequence: Sequence, reason: str) -> None:
        """Record why a sequence could not be tracked."""
        write_atomically(self.failure_path(sequence.name), encode(reason + "\n"))

    def failures(self) -> dict[str, str]:
        """What `save_failure` recorded: {sequence: reason}."""
        paths = sorted((self.folder / "failed").glob(TEXT_FILES))
        return {path.stem: read_text(path).strip() for path in paths}

    def forget(self, name: str, number: int = 1) -> None:
        """Remove a run's boxes, if there are any, so that it is run again."""
        self.boxes_path(name, number).unlink(missing_ok=True)

    def load(self, sequence: Sequence, number: int = 1) -> Run | None:
        """Read what `save` wrote; None if it is missing, or has other frames or another first box.

        Raises ValueError, naming the file, for a damaged one and one of another length.
        """
        path = self.boxes_path(sequence.name, number)
        if not path.is_file():
            return None
        columns = self._columns(sequence, number)
        column = self._column(number)
        if column >= len(columns) or np.isnan(columns[column]).any():
            return None
        return Run(_boxes_of(path, sequence, ADVICE), columns[column])

    def _column(self, number: int) -> int:
        """Column of a run in its file of times."""
        return number - 1 if self.per_sequence else 0

    def _columns(self, sequence: Sequence, number: int) -> list[np.ndarray]:
        """Seconds of each run in a file of times; empty if it is of another sequence."""
        path = self.times_path(sequence.name, number)
        if not path.is_file():
            return []
        head = path.read_text(errors="replace").partition("\n")[0]
        if not _is_of(head, sequence):
            return []
        table = _table(path, ADVICE)
        if len(table) != len(sequence):
            raise ValueError(
                f"{path} holds {len(table)} times but the sequence {len(sequence)} frames; {ADVICE}"
            )
        return list(table.T)


def fingerprint(sequence: Sequence) -> str:
    """Digest of what a tracker's boxes depend on, whatever the sequence's place.

    These are its name, length, first box, and the bytes of the frames' files.
    """
    what = f"{_start(sequence)} {_content(sequence.files(), stamp(sequence))}"
    return hashlib.sha256(encode(what)).hexdigest()[:16]


def stamp(sequence: Sequence) -> str:
    """Digest like `fingerprint`, but of the files' sizes and times, so no file is read."""
    return state_digest([(_start(sequence), [Path(file) for file in sequence.files()])])[:16]


def _start(sequence: Sequence) -> str:
    """Name, length and first box of a sequence."""
    first = sequence.boxes[sequence.annotated()[:1]].tolist()
    return f"{sequence.name} {len(sequence)} {first}"


@lru_cache(maxsize=1024)  # all trackers need the same digests
def _content(files: tuple[str, ...], state: str) -> str:
    """Digest of the bytes of files, without missing ones; `state` is their stamp, for the cache."""
    digest = hashlib.sha256()
    for path in files:
        with suppress(OSError), open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            digest.update(f" {file.tell()} ".encode())
    return digest.hexdigest()


def _is_of(head: str, sequence: Sequence) -> bool:
    """Whether times with this first line belong to this very sequence.

    The frames are read only if their files' sizes or times differ, as they may in a copy.
    """
    words = head.split()
    return len(words) == 3 and (words[1] == stamp(sequence) or words[2] == fingerprint(sequence))


def _boxes_of(path: Path, sequence: Sequence, advice: str) -> np.ndarray:
    """Boxes in a file, as `Run` has them. Raises ValueError as `read_result`, and for NaN.

    NaN is refused where the target is annotated, except in the first frame, which is given.
    """
    boxes = read_result(path, len(sequence), advice)
    scored = sequence.annotated()[1:]
    bad = scored[~np.isfinite(boxes[scored]).all(axis=1)]
    if len(bad):
        raise ValueError(f"{path}: box {bad[0] + 1} of {len(boxes)} is not finite; {advice}")
    return boxes - _shift(sequence)


def read_result(path: Path, frames: int, advice: str = ADVICE) -> np.ndarray:
    """Read lines x,y,w,h (comma, tab or space) unchanged, as `[frames, 4]`.

    Raises ValueError, naming the file and what to do about it, `advice`, for a damaged one and one
    of another length.
    """
    boxes = _table(path, advice, columns=4)
    if len(boxes) != frames:
        advice = _advice(path, frames - len(boxes), advice)
        raise ValueError(
            f"{path} holds {len(boxes)} boxes but the sequence {frames} frames; {advice}"
        )
    return boxes


def _advice(path: Path, lacking: int, usual: str) -> str:
    """What to do about a file that lacks `lacking` boxes."""
    name = otb_name(path.stem)
    if OMITTED.get(name) != lacking:
        return usual
    return f"pytracking leaves out the first {lacking} of {name}; put {lacking} lines in front"


def by_name(files: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Files by the names of their sequences, see `otb_name`."""
    found: dict[str, list[Path]] = {}
    for name, path in files:
        found.setdefault(otb_name(name), []).append(path)
    return found


def the_only(found: list[Path], name: str) -> Path:
    """The file of the sequence `name`. Raises ValueError if there are several."""
    if len(found) > 1:
        raise ValueError(f"{' and '.join(map(str, found))} are all of {name}; keep one")
    return found[0]


def read_result_folder(folder: Path, sequences: Container[str] = ()) -> Callable[[Sequence], Run]:
    """Reader of boxes that exist already, in text files `NAME.txt` or `NAME/NAME_001.txt`.

    `NAME_001.txt` is also taken for NAME, unless `sequences` has one of that name itself. Seconds
    are zeros if the toolkit's file of times is missing. Raises FileNotFoundError if there is no
    such folder, and ValueError for one without text files. The reader raises ValueError for a
    sequence without boxes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"results folder {folder} does not exist")
    files = by_name((path.stem, path) for path in sorted(folder.glob(TEXT_FILES)))
    for name, found in by_name((p.parent.name, p) for p in folder.glob("*/*_001.txt")).items():
        files.setdefault(name, []).extend(found)
    if not files:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:3]) or "nothing"
        raise ValueError(
            f"{folder} holds no results: expected NAME.txt with x,y,w,h lines, or"
            f" NAME/NAME_001.txt; found {there}"
        )

    def load(sequence: Sequence) -> Run:
        name = otb_name(sequence.name)  # a video may be called Jogging-1
        first_run = f"{name}_001"
        found = list(files.get(name, ()))
        if first_run not in sequences:
            found += files.get(first_run, ())
        if not found:
            _check_case(files, name)
            raise ValueError(f"no result: there is no {folder / name}.txt")
        path = the_only(found, sequence.name)
        boxes = _boxes_of(path, sequence, ADVICE_TO_OTHERS)
        _check_first(boxes[0], sequence.boxes[0], path)
        return Run(boxes, _seconds(path, len(boxes)))

    return load


def _check_first(box: np.ndarray, true: np.ndarray, path: Path) -> None:
    """Warn if a tracker's first box is not the one it was given: its form may be another."""
    if np.isfinite(true).all() and overlaps(box[None], true[None])[0] < LEAST_OVERLAP:
        shown, given = (", ".join(f"{side:g}" for side in each) for each in (box, true))
        form = "are its boxes x,y,w,h in pixels?"
        warnings.warn(f"{path}: its first box is {shown}, not {given}; {form}", stacklevel=2)


def _check_case(files: dict[str, list[Path]], name: str) -> None:
    """Raise ValueError if only capital letters keep a file from being that of the sequence."""
    for other, (path, *_) in files.items():
        if other.lower() == name.lower():
            raise ValueError(f"no result; {path} differs in capital letters: name it as {name}")


def _seconds(boxes: Path, count: int) -> np.ndarray:
    """Seconds `[count]` from the file of times of a file of boxes; zeros if there is none."""
    folder = boxes.parent
    name = boxes.stem
    if name == f"{folder.name}_001":  # GOT-10k's form
        name = folder.name
    for path in (folder / "times" / f"{name}_time.txt", folder / f"{name}_time.txt"):
        if not path.is_file():
            continue
        table = _table(path, "write a line of seconds for each frame, or delete the file")
        if len(table) == count:
            return np.nan_to_num(table[:, 0])
    return np.zeros(count)


def _shift(sequence: Sequence) -> np.ndarray:
    """The offset from boxes x,y,w,h to those of the data set's files."""
    return np.array([1.0, 1.0, 0.0, 0.0]) * sequence.one_based


def as_lines(rows: np.ndarray, form: str, head: str = "") -> bytes:
    """Rows of numbers as a text file: a line each, with commas between, after a comment `head`."""
    buffer = io.StringIO()
    np.savetxt(buffer, rows, fmt=form, delimiter=",", header=head)
    return buffer.getvalue().encode()


def _table(path: Path, advice: str, columns: int = 0) -> np.ndarray:
    """The numbers of a text file, `[N, columns]`; 0 columns: as many as the first line has.

    What follows a `#` is skipped. Raises ValueError, naming file and line, for other text.
    """
    rows: list[list[float]] = []
    try:
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if row := _numbers(line, f"{path} line {number}"):
                columns = columns or len(row)
                if len(row) != columns:
                    raise ValueError(
                        f"{path} line {number}: found {len(row)} values, expected {columns}"
                    )
                rows.append(row)
        if not rows:
            raise ValueError(f"{path} is empty")
    except ValueError as error:
        raise ValueError(f"{error}; {advice}") from None
    return np.array(rows)


def _numbers(line: str, place: str) -> list[float]:
    """The numbers of a line; raises ValueError, naming its place, for other text."""
    try:
        return [float(word) for word in line.partition("#")[0].replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"{place}: {line.strip()[:60]!r} is no list of numbers") from None
