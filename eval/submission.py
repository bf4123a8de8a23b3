"""The archive to submit to GOT-10k's server.

It has `NAME/NAME_001.txt` and `NAME/NAME_time.txt` of each test sequence.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.results import ResultStore, Run, as_lines
from rbsf.system.files import write_atomically

SERVER = "http://got-10k.aitestunion.com/submit_instructions"


def write_submission(
    path: Path, store: ResultStore, sequences: list[Sequence], runs: int = 1
) -> None:
    """Zip a tracker's results on all of the test split.

    Raises ValueError, naming the file, if a result is missing or a box is not finite.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for sequence in sequences:
            loaded = [_load(store, sequence, number) for number in range(1, runs + 1)]
            for number, run in enumerate(loaded, 1):
                file = store.boxes_path(sequence.name, number)
                archive.writestr(f"{sequence.name}/{file.name}", as_lines(run.boxes, "%.3f"))
            times = as_lines(np.stack([run.seconds for run in loaded], axis=1), "%.8f")
            archive.writestr(f"{sequence.name}/{store.times_path(sequence.name).name}", times)
    write_atomically(path, buffer.getvalue())


def _load(store: ResultStore, sequence: Sequence, number: int) -> Run:
    run = store.load(sequence, number)
    if run is None:
        raise ValueError(f"no submission: {sequence.name} has no result of {store.folder.name}")
    bad = np.flatnonzero(~np.isfinite(run.boxes).all(axis=1))
    if len(bad):
        file = store.boxes_path(sequence.name, number)
        raise ValueError(f"no submission: {file}: box {bad[0] + 1} is not finite")
    return run
