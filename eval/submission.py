"""The archive to submit to GOT-10k's server.

It has `NAME/NAME_001.txt` and `NAME/NAME_time.txt` of each test sequence.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.results import ResultStore
from rbsf.system.files import write_atomically
from rbsf.system.text import read_text

SERVER = "http://got-10k.aitestunion.com/submit_instructions"


def write_submission(
    path: Path, store: ResultStore, sequences: list[Sequence], runs: int = 1
) -> None:
    """Zip a tracker's results on all of the test split, and check what was written.

    Raises ValueError, naming the first sequence without a result, if one is missing.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for sequence in sequences:
            _add_sequence(archive, store, sequence, runs)
    frames = {sequence.name: len(sequence) for sequence in sequences}
    check_submission(io.BytesIO(buffer.getvalue()), frames, runs)
    write_atomically(path, buffer.getvalue())


def _add_sequence(
    archive: zipfile.ZipFile, store: ResultStore, sequence: Sequence, runs: int
) -> None:
    """Add the boxes of each run of a sequence, and its file of times."""
    name = sequence.name
    numbers = range(1, runs + 1)
    if any(store.load(sequence, number) is None for number in numbers):
        raise ValueError(f"no submission: {name} has no result of {store.folder.name}")
    for number in numbers:
        file = store.boxes_path(name, number)
        archive.writestr(f"{name}/{file.name}", read_text(file))
    times = store.times_path(name)
    text = ""
    for line in read_text(times).splitlines():
        if not line.startswith("#"):
            columns = line.split(",")[:runs]  # an earlier benchmark may have had more runs
            text += ",".join(columns) + "\n"
    archive.writestr(f"{name}/{times.name}", text)


def check_submission(file: Path | io.BytesIO, frames: dict[str, int], runs: int = 1) -> None:
    """Raise ValueError unless an archive has exactly the files and lines that the server wants.

    `frames`: {sequence: number of frames}. A line of boxes has 4 numbers, a line of times one for
    each run.
    """
    with zipfile.ZipFile(file) as archive:
        found = set(archive.namelist())
        wanted = _wanted_files(frames, runs)
        if found != set(wanted):
            name = min(found ^ set(wanted))
            fault = "missing" if name in wanted else "not wanted"
            raise ValueError(f"submission: {name} is {fault}")
        for name, columns in wanted.items():
            lines = archive.read(name).decode().splitlines()
            _check_lines(name, lines, frames[name.partition("/")[0]], columns)


def _wanted_files(frames: dict[str, int], runs: int) -> dict[str, int]:
    """The files of an archive: {name: numbers in a line}."""
    boxes = {f"{name}/{name}_{n:03d}.txt": 4 for name in frames for n in range(1, runs + 1)}
    times = {f"{name}/{name}_time.txt": runs for name in frames}
    return boxes | times


def _check_lines(name: str, lines: list[str], count: int, columns: int) -> None:
    """Raise ValueError unless a file has `count` lines of `columns` numbers."""
    if len(lines) != count:
        raise ValueError(
            f"submission: {name} has {len(lines)} lines but the sequence {count} frames"
        )
    for number, line in enumerate(lines, 1):
        texts = line.split(",")
        if len(texts) != columns or not all(map(_is_number, texts)):
            raise ValueError(f"submission: {name} line {number} is not {columns} numbers: {line!r}")


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
