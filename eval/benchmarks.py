"""The benchmarks: their sequences, folders, protocols, and the paper's scores on them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbsf.datasets.video.layouts import (
    LAYOUTS,
    find_entries,
    find_videos,
    is_uav123_10fps,
    otb_name,
    uav123_spans,
)
from rbsf.datasets.video.sequences import Sequence, load_sequences, read_boxes, whole_name
from rbsf.eval.metrics import GOT10K, OPE, OTB, Protocol
from rbsf.eval.results import TEXT_FILES, by_name, the_only
from rbsf.system.text import listed

# Targets as the got10k toolkit names them (a test compares).
_OTB2013 = """
    Basketball Bolt Boy Car4 CarDark CarScale Coke Couple Crossing David David2 David3 Deer Dog1
    Doll Dudek FaceOcc1 FaceOcc2 Fish FleetFace Football Football1 Freeman1 Freeman3 Freeman4 Girl
    Ironman Jogging.1 Jogging.2 Jumping Lemming Liquor Matrix Mhyang MotorRolling MountainBike
    Shaking Singer1 Singer2 Skating1 Skiing Soccer Subway Suv Sylvester Tiger1 Tiger2 Trellis
    Walking Walking2 Woman
"""
_OTB50 = """
    Basketball Biker Bird1 BlurBody BlurCar2 BlurFace BlurOwl Bolt Box Car1 Car4 CarDark CarScale
    ClifBar Couple Crowds David Deer Diving DragonBaby Dudek Football Freeman4 Girl Human3 Human4
    Human6 Human9 Ironman Jump Jumping Liquor Matrix MotorRolling Panda RedTeam Shaking Singer2
    Skating1 Skating2.1 Skating2.2 Skiing Soccer Surfer Sylvester Tiger2 Trellis Walking Walking2
    Woman
"""
_OTB100_REST = """
    Bird2 BlurCar1 BlurCar3 BlurCar4 Board Bolt2 Boy Car2 Car24 Coke Coupon Crossing Dancer Dancer2
    David2 David3 Dog Dog1 Doll FaceOcc1 FaceOcc2 Fish FleetFace Football1 Freeman1 Freeman3 Girl2
    Gym Human2 Human5 Human7 Human8 Jogging.1 Jogging.2 KiteSurf Lemming Man Mhyang MountainBike
    Rubik Singer1 Skater Skater2 Subway Suv Tiger1 Toy Trans Twinnings Vase
"""
_NAMES = {
    "OTB2013": lambda: _OTB2013.split(),
    "OTB50": lambda: _OTB50.split(),
    "OTB100": lambda: (_OTB50 + _OTB100_REST).split(),
    "UAV123": lambda: list(uav123_spans("UAV123")),
    "UAV20L": lambda: list(uav123_spans("UAV20L")),
    "GOT-10k-val": lambda: [f"GOT-10k_Val_{i:06d}" for i in range(1, 181)],
    "GOT-10k-test": lambda: [f"GOT-10k_Test_{i:06d}" for i in range(1, 181)],
}
TEST_SPLITS = ("OTB2013", "OTB50", "OTB100", "UAV123", "UAV20L", "GOT-10k-test")

# Table 5 of the paper. SR is the success rate at 0.5 on GOT-10k, and the AUC on the others.
_TABLE_5: dict[str, dict[str, tuple[float, float]]] = {
    "GOT-10k-test": {"SiamFC": (0.348, 0.383), "XNOR": (0.251, 0.230), "RB-SF": (0.327, 0.343)},
    "OTB50": {"SiamFC": (0.761, 0.556), "XNOR": (0.457, 0.323), "RB-SF": (0.706, 0.496)},
    "OTB100": {"SiamFC": (0.808, 0.602), "XNOR": (0.541, 0.394), "RB-SF": (0.786, 0.572)},
    "UAV123": {"SiamFC": (0.745, 0.528), "XNOR": (0.547, 0.374), "RB-SF": (0.688, 0.497)},
}


@dataclass(frozen=True)
class Dataset:
    """A value of `--dataset`: how its sequences are found and scored."""

    folder: str | None  # folder name of its results, as in the got10k toolkit; None: the root's
    layout: str | None = None  # key of `rbsf.datasets.video.layouts.LAYOUTS`; None: detected
    root: str | None = None  # its folder in $RBSF_DATA or data/
    split: str | None = None  # subfolder of the root, used if it exists
    protocol: Protocol = OPE


BENCHMARKS = {
    "OTB2013": Dataset("OTB2013", "otb", "OTB", protocol=OTB),
    "OTB50": Dataset("OTBtb50", "otb", "OTB", protocol=OTB),
    "OTB100": Dataset("OTB2015", "otb", "OTB", protocol=OTB),
    "UAV123": Dataset("UAV123", "uav123", "UAV123"),
    "UAV20L": Dataset("UAV20L", "uav20l", "UAV123"),
    "GOT-10k-val": Dataset("GOT-10k", "got10k", "GOT-10k", "val", GOT10K),
    "GOT-10k-test": Dataset("GOT-10k", "got10k", "GOT-10k", "test", GOT10K),
    "folder": Dataset(None),
    "synthetic": Dataset("synthetic", "videos"),
}


@dataclass
class Split:
    """The part of a benchmark that is available."""

    dataset: str
    sequences: list[Sequence]
    missing: list[str] = field(default_factory=list)  # published, but not there
    broken: dict[str, str] = field(default_factory=dict)  # cannot be read: {name: why}
    variant: str = ""  # folder or version of the published set, such as "-mine" or "_10fps"
    passes: bool = False  # whether the sequences are parts of the benchmark's: `rbsf.eval.passes`

    @property
    def name(self) -> str:
        """Name shared by results that may be compared: `OTB100`, `UAV123_10fps`, `folder-mine`."""
        return self.dataset + self.variant

    @property
    def title(self) -> str:
        """Name and number of sequences, such as `OTB100 (15 of 100 sequences)`."""
        whole = len(published_names(self.dataset))
        there = len({whole_name(sequence.name) for sequence in self.sequences})
        if whole and there != whole:
            count = f"{there} of {whole} sequences"
        elif there == 1:
            count = "1 sequence"
        else:
            count = f"{there} sequences"
        if self.passes:
            count += f", {len(self.sequences)} passes"
        return f"{self.name} ({count})"


def default_root(dataset: str) -> Path:
    """A benchmark's folder if no --root is given: in $RBSF_DATA, or in `data`.

    Raises FileNotFoundError if it is not there, and for a data set without a default folder.
    """
    advice = "give its folder by --root; without any data: --dataset synthetic"
    folder = BENCHMARKS[dataset].root
    if not folder:
        raise FileNotFoundError(f"{dataset} has no place of its own: {advice}")
    root = Path(os.environ.get("RBSF_DATA") or "data") / folder
    if not root.is_dir():
        raise FileNotFoundError(f"{dataset} is not in {root}: {advice}")
    return root


def published_names(dataset: str) -> list[str]:
    """Every target of a published benchmark; empty for `folder` and `synthetic`."""
    return _NAMES[dataset]() if dataset in _NAMES else []


def held_out_names() -> frozenset[str]:
    """Every sequence that must be neither trained nor tuned on."""
    return frozenset(name for split in TEST_SPLITS for name in published_names(split))


def paper_scores(dataset: str) -> dict[str, Any] | None:
    """The paper's scores on a benchmark, as a report holds them; None if it has none."""
    if dataset not in _TABLE_5:
        return None
    keys = ("ao", "sr50") if dataset.startswith("GOT-10k") else ("precision", "success")
    scores = {}
    for tracker, values in _TABLE_5[dataset].items():
        scores[tracker] = dict(zip(keys, values, strict=True))
    return {"source": "RBCN, IJCAI 2019, Table 5", "dataset": dataset, "scores": scores}


def find_split(dataset: str, root: Path, names: Iterable[str] | None = None) -> Split:
    """Load the sequences of a benchmark below `root`, or those of `names`.

    Sequences that cannot be read are recorded in `Split.broken`. Raises FileNotFoundError if there
    is no such folder; ValueError if no sequence of the benchmark is there, or one of `names` is
    not.
    """
    benchmark = BENCHMARKS[dataset]
    if benchmark.split and (root / benchmark.split).is_dir():
        root = root / benchmark.split
    layout = _layout(root, benchmark)
    there = [otb_name(entry.name) for entry in find_entries(root, layout)]
    wanted, missing = _choose(dataset, root, there, names)
    broken: dict[str, str] = {}
    sequences = load_sequences(root, layout, wanted, broken=broken)
    return Split(dataset, sequences, missing, broken, _variant(dataset, root))


def _layout(root: Path, benchmark: Dataset) -> str | None:
    """The benchmark's layout, or "videos" if its sequences are given as videos."""
    usual = benchmark.layout
    if usual is None or not root.is_dir() or LAYOUTS[usual].find(root):
        return usual
    return "videos" if find_videos(root) else usual


def _variant(dataset: str, root: Path) -> str:
    """`Split.variant` of the sequences below `root`."""
    name = root.resolve().name
    if dataset == "folder":
        return f"-{name}"
    # In OTB's layout the folder's name is the only sign of the version.
    slow = name == "UAV123_10fps" or is_uav123_10fps(root)
    return "_10fps" if dataset == "UAV123" and slow else ""


def read_annotations(dataset: str, folder: Path, names: Iterable[str] | None = None) -> Split:
    """Read true boxes without images, from files `NAME.txt` with a line x,y,w,h per frame.

    Boxes are in the coordinates of the data set's files. Raises FileNotFoundError if there is no
    such folder; ValueError if it holds no sequence of the benchmark, or lacks one of `names`, and
    for GOT-10k, whose scores need the sizes of the frames.
    """
    if BENCHMARKS[dataset].protocol.bounded:
        raise ValueError(
            f"{dataset} is scored with the sizes of the frames:"
            " give --root in place of --annotations"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"annotations folder {folder} does not exist")
    files = by_name((path.stem, path) for path in sorted(folder.glob(TEXT_FILES)))
    if not files:
        expected = "give files NAME.txt with a line x,y,w,h per frame"
        raise ValueError(f"annotations folder {folder} has no boxes; {expected}")
    wanted, missing = _choose(dataset, folder, list(files), names)
    split = Split(dataset, [], missing, variant=_variant(dataset, folder))
    for name in wanted:
        try:
            split.sequences.append(Sequence(name, (), read_boxes(the_only(files[name], name))))
        except (ValueError, OSError) as error:
            split.broken[name] = str(error)
    return split


def _choose(
    dataset: str, folder: Path, there: list[str], names: Iterable[str] | None
) -> tuple[list[str], list[str]]:
    """The sequences to load, each once, and the published ones that are missing.

    `there`: sequences in the folder. `names`: those to choose; none counts as missing then. Raises
    ValueError if there is nothing to load, and for a name that is not there.
    """
    published = published_names(dataset)
    missing = [name for name in published if name not in there]
    if names:
        wanted, missing = [otb_name(name) for name in names], []
    elif published:
        wanted = [name for name in there if name in published]
    else:
        wanted = there
    _check_wanted(dataset, folder, wanted, there)
    return list(dict.fromkeys(wanted)), missing


def _check_wanted(dataset: str, folder: Path, wanted: list[str], there: list[str]) -> None:
    """Raise ValueError if no sequence is wanted, or a wanted one is not there."""
    published = published_names(dataset)
    examples = ", ".join(published[:3])
    found = f"{len(there)} sequences ({listed(there, 3)})"
    if not wanted:
        raise ValueError(
            f"{folder} is not {dataset}: expected sequences such as {examples}; found {found};"
            " for any folder of sequences use --dataset folder"
        )
    for name in wanted:
        if published and name not in published:
            raise ValueError(f"{name} is no sequence of {dataset}; it has {examples}, ...")
        if name not in there:
            raise ValueError(f"sequence {name} is missing in {folder}; found {found}")
