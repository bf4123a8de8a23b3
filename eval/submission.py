"""The archive that GOT-10k's server scores: ``NAME/NAME_001.txt`` and ``NAME/NAME_time.txt`` of
each test sequence.
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

    Raises ValueError, naming the first sequence, where a result is missing.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for sequence in sequences:
            if any(store.load(sequence, number) is None for number in range(1, runs + 1)):
                raise ValueError(
                    f"no submission: {sequence.name} has no result of {store.folder.name}"
                )
            for number in range(1, runs + 1):
                file = store.boxes_path(sequence.name, number)
                archive.writestr(f"{sequence.name}/{file.name}", read_text(file))
            times = store.times_path(sequence.name)
            lines = [line for line in read_text(times).splitlines() if not line.startswith("#")]
            kept = [
                ",".join(line.split(",")[:runs]) for line in lines
            ]  # an earlier benchmark may have had more runs
            archive.writestr(f"{sequence.name}/{times.name}", "".join(f"{line}\n" for line in kept))
    check_submission(io.BytesIO(buffer.getvalue()), {s.name: len(s) for s in sequences}, runs)
    write_atomically(path, buffer.getvalue())


def check_submission(file: Path | io.BytesIO, frames: dict[str, int], runs: int = 1) -> None:
    """Raise ValueError where an archive has not exactly the files and lines that the server wants.

    ``frames``: {sequence: frames}. A line of boxes has 4 numbers, a line of times one a run.
    """
    with zipfile.ZipFile(file) as archive:
        found = set(archive.namelist())
        wanted = {f"{name}/{name}_{n:03d}.txt": 4 for name in frames for n in range(1, runs + 1)}
        wanted |= {f"{name}/{name}_time.txt": runs for name in frames}
        if found != set(wanted):
            name = min(found ^ set(wanted))
            raise ValueError(
                f"submission: {name} is {'missing' if name in wanted else 'not wanted'}"
            )
        for name, columns in wanted.items():
            rows = [line.split(",") for line in archive.read(name).decode().splitlines()]
            count = frames[name.partition("/")[0]]
            if len(rows) != count:
                raise ValueError(
                    f"submission: {name} has {len(rows)} lines but the sequence {count} frames"
                )
            for number, row in enumerate(rows, 1):
                if len(row) != columns or not all(map(_is_number, row)):
                    raise ValueError(
                        f"submission: {name} line {number} is not {columns} numbers: {','.join(row)!r}"
                    )


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
