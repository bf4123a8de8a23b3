"""What a training reads, from what the user names: crop stores for pairs, and sequences held out to
track.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from pathlib import Path

from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.prepare import prepare
from rbsf.datasets.pairs.provenance import origin_of
from rbsf.datasets.pairs.sampling import Row
from rbsf.datasets.pairs.stills import is_stills_folder
from rbsf.datasets.video.sequences import Sequence, check_broken, load_sequences

MAX_CROPS = 200  # crops of one sequence, evenly spaced: more of the same target teach little and take 16 kB each
HELD_OUT = 4  # at most one in so many sequences of the training data is held out
SYNTHETIC = {
    "count": 40,
    "frames": 60,
    "size": (320, 240),
    "seed": 1,
}  # what is made where no data is named


def open_training_data(
    data: list[Path],
    cache: Path,
    val: Path | None = None,
    val_count: int = 4,
    *,
    skip_broken: bool = False,
    prepare_missing: bool = True,
) -> tuple[list[CropStore], list[Sequence]]:
    """Open `data`: crop stores (`.db`), sequence roots of any layout, folders of stills; none =
    synthetic videos.

    What is no store yet is cropped into one in the folder `cache`, once.  Also returns up to
    `val_count` sequences to validate on: of the root `val`, else spread evenly over the roots in
    `data`, a fourth of them at most (none where `data` has stores only: a line says so).  With
    `skip_broken` broken sequences are left out, with a warning of each. Of several processes one
    calls this first; the others, after it, with `prepare_missing=False`: they open what it made,
    write nothing and print nothing. Raises ValueError or FileNotFoundError, naming the path, for
    data that cannot be used.
    """
    if val and not val.exists():  # though none of it may be asked for
        raise FileNotFoundError(f"--val {val} does not exist; give a folder of sequences")
    if not data:
        data = [_synthetic(cache, prepare_missing)]
    stores = [CropStore(path) for path in data if path.suffix == ".db"]
    folders = [path for path in data if path.suffix != ".db"]
    if folders:
        key = "|".join(str(path.resolve()) for path in folders)
        store = cache / f"pairs-{hashlib.sha256(key.encode()).hexdigest()[:8]}.db"
        if prepare_missing:
            workers = os.cpu_count() or 1
            prepare(
                folders, store, max_per_sequence=MAX_CROPS, workers=workers, skip_broken=skip_broken
            )
        stores.append(CropStore(store))
    roots = [val] if val else [path for path in folders if not is_stills_folder(path)]
    broken: dict[str, str] = {}
    sequences = (
        [sequence for root in roots for sequence in load_sequences(root, broken=broken)]
        if val_count
        else []
    )
    if val and prepare_missing:  # those of `data` were looked at already
        check_broken(list(broken.values()), skip_broken)
    count = min(val_count, len(sequences) if val else len(sequences) // HELD_OUT)
    if val_count and not count and prepare_missing:
        print(
            "no validation during training: the data have no sequences to spare for it; give some with --val PATH"
        )
    return stores, sequences[:: len(sequences) // count][:count] if count else []


def find_held_out(stores: list[CropStore], held_out: list[Sequence]) -> list[Row]:
    """Where the stores hold crops of these sequences: numbers of store and sequence.

    A sequence of the same name is another where the store knows that it lies elsewhere and has
    other boxes.
    """
    wanted: dict[str, list[Sequence]] = defaultdict(list)
    for sequence in held_out:
        wanted[sequence.name].append(sequence)
    return [
        (number, row)
        for number, store in enumerate(stores)
        for row, (name, origin) in enumerate(zip(store.names, store.origins, strict=True))
        if store.starts[row + 1] > store.starts[row]
        if any(
            origin is None or origin.is_of(origin_of(s.files(), s.boxes))
            for s in wanted.get(name, ())
        )
    ]


def _synthetic(cache: Path, make: bool) -> Path:
    """The root of the synthetic videos, in GOT-10k layout; with `make` they are made unless they
    are there.
    """
    from rbsf.datasets.synthetic.videos import write_got10k

    root = cache / "synthetic"
    if make and not (root / "train" / "list.txt").is_file():
        write_got10k(root / "train", **SYNTHETIC)  # type: ignore[arg-type]
    return root
