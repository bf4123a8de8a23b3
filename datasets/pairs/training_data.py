"""What a training reads: crop stores for pairs, and sequences held out to validate on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.prepare import prepare
from rbsf.datasets.pairs.provenance import Origin, origin_of
from rbsf.datasets.pairs.sampling import Row
from rbsf.datasets.pairs.stills import is_stills_folder
from rbsf.datasets.video.sequences import Sequence, check_broken, load_sequences
from rbsf.system.environment import cores
from rbsf.system.text import encode

# Most crops of one sequence, evenly spaced. More of one target teach little and take 16 kB each.
MAX_CROPS = 200
HELD_OUT = 4  # at most 1/HELD_OUT of the sequences is held out
# The videos that are made if no data is given: their folder in the cache, and how many they are.
SYNTHETIC_FOLDER = "synthetic"
SYNTHETIC_VIDEOS, SYNTHETIC_FRAMES = 40, 60


def open_stores(
    data: list[Path], cache: Path, *, skip_broken: bool = False, prepare_missing: bool = True
) -> list[CropStore]:
    """Open `data` as crop stores.

    `data`: crop stores (`.db`), sequence roots of any layout, and folders of stills; if it is
    empty, synthetic videos. Whatever is not a store is cropped into one in the folder `cache`,
    once. With `skip_broken`, broken sequences are left out, with a warning for each. If there are
    several processes, one calls this first. The others call it afterwards, with
    `prepare_missing=False`: they open what the first made, and print nothing. Raises ValueError or
    FileNotFoundError, naming the path, for data that cannot be used.
    """
    stores, folders = _divide(data or [_synthetic(cache, prepare_missing)])
    opened = [CropStore(path) for path in stores]
    if folders:
        store = _store_of(folders, cache)
        if prepare_missing:
            prepare(
                folders, store, max_per_sequence=MAX_CROPS, workers=cores(), skip_broken=skip_broken
            )
        opened.append(CropStore(store))
    return opened


def hold_out(
    data: list[Path],
    cache: Path,
    val: Path | None,
    count: int,
    *,
    skip_broken: bool = False,
    prints: bool = True,
) -> list[Sequence]:
    """Up to `count` sequences to validate on, of the root `val`.

    Without `val` they are spread evenly over the roots that `open_stores` made stores of, and are
    at most a fourth of their sequences; if none can be spared, a message says so. With
    `skip_broken`, broken sequences of `val` are left out, with a warning for each. Without
    `prints`, as in all processes but one, nothing is printed. Raises ValueError or
    FileNotFoundError, naming the path, for sequences that cannot be used.
    """
    if count == 0:
        return []
    if val:
        broken: dict[str, str] = {}
        sequences = load_sequences(val, broken=broken)
        if prints:
            check_broken(list(broken.values()), skip_broken)
        held_out = _spread(sequences, min(count, len(sequences)))
    else:
        _, folders = _divide(data or [cache / SYNTHETIC_FOLDER])
        sequences = _load_whole(folders)
        held_out = _spread(sequences, min(count, len(sequences) // HELD_OUT))
    if not held_out and prints:
        why = "the data have no sequences to spare for it"
        print(f"no validation during training: {why}; give some with --val PATH")
    return held_out


def _divide(data: list[Path]) -> tuple[list[Path], list[Path]]:
    """The crop stores among the paths in `data`, and the folders."""
    stores = [path for path in data if path.suffix == ".db"]
    return stores, [path for path in data if path not in stores]


def _store_of(folders: list[Path], cache: Path) -> Path:
    """Where the crops of these folders are stored."""
    key = "|".join(str(path.resolve()) for path in folders)
    return cache / f"pairs-{hashlib.sha256(encode(key)).hexdigest()[:8]}.db"


def _load_whole(folders: list[Path]) -> list[Sequence]:
    """The sequences in these folders, without the broken ones, which `prepare` has reported."""
    sequences: list[Sequence] = []
    for folder in folders:
        if not is_stills_folder(folder):
            sequences += load_sequences(folder, broken={})
    return sequences


def _spread(sequences: list[Sequence], count: int) -> list[Sequence]:
    """Choose `count` of the sequences, spread evenly."""
    if not count:
        return []
    step = len(sequences) // count
    return sequences[::step][:count]


def find_held_out(stores: list[CropStore], held_out: list[Sequence]) -> list[Row]:
    """Where the stores hold crops of these sequences: numbers of store and sequence.

    Other targets of the same video count too. A stored sequence of the same name is another one if
    its origin is known to differ: it lies elsewhere and has other boxes.
    """
    wanted: dict[str, list[Origin]] = defaultdict(list)
    for sequence in held_out:
        wanted[sequence.name].append(origin_of(sequence.files(), sequence.boxes))
    places = {origin.place for origins in wanted.values() for origin in origins}
    found = []
    for number, store in enumerate(stores):
        for row, (name, origin) in enumerate(zip(store.names, store.origins, strict=True)):
            has_crops = store.starts[row + 1] > store.starts[row]
            same_video = origin is not None and origin.place in places
            if has_crops and (same_video or _is_one_of(origin, wanted.get(name, []))):
                found.append((number, row))
    return found


def _is_one_of(origin: Origin | None, held_out: list[Origin]) -> bool:
    """Whether a stored sequence is one of those with its name."""
    if origin is None:
        return bool(held_out)  # the name alone decides
    return any(origin.is_of(other) for other in held_out)


def _synthetic(cache: Path, make: bool) -> Path:
    """The root of the synthetic videos, in GOT-10k layout.

    With `make`, they are made if they are missing.
    """
    from rbsf.datasets.synthetic.videos import write_got10k

    root = cache / SYNTHETIC_FOLDER
    if make and not (root / "train" / "list.txt").is_file():
        write_got10k(root / "train", SYNTHETIC_VIDEOS, seed=1, frames=SYNTHETIC_FRAMES)
    return root
