"""Find targets to learn from in videos or pictures without boxes, by a published tracker.

The tracker's box regression pulls random boxes onto things. In a video each thing is followed to
the end and back again. The frames in which both ways agree become its track. Half of the tracks
begin in the first frame, half in the last. A track NAME_1.txt has a box for each frame, or nan
where none is known; it stands beside a link to the video. In a picture the things that
stand out best are kept. Their boxes are rows of boxes.csv, which stands beside links to the
pictures. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, run, seed_number

if TYPE_CHECKING:
    import numpy as np

    from rbsf.tracker.onnx_pair import OnnxPair

EXAMPLE = "--videos unlabelled --teacher backbone.onnx,head.onnx --out tracks"
RECORD = "tracks.json"  # in --out: settings, and the number of targets of each finished file
TABLE = "boxes.csv"  # in --out: the boxes of pictures
HEADER = ["file", "x", "y", "w", "h"]
# What reading a damaged record raises; the last two if its JSON nests deeply or has Infinity.
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
)
UNKNOWN = "nan,nan,nan,nan"  # the line of a frame without a box
MOST_BYTES = 1 << 29  # of frames of a video; the rest of it is left out
# Gives a file targets: network, file, output folder, random numbers, most targets. Returns how
# many there are.
Giver = Callable[["OnnxPair", Path, Path, "np.random.Generator", int], int]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE)
    add = first.add_argument
    add(
        "--videos",
        type=Path,
        required=True,
        metavar="PATH",
        help="Give targets to the videos in this folder, or to its pictures",
    )
    add(
        "--teacher",
        required=True,
        metavar="BACKBONE,HEAD",
        help="Follow them by the tracker in these two ONNX files",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="Write to this folder, which is then a --data of tools/prepare_pairs.py",
    )
    add(
        "--count",
        type=positive_int,
        default=8,
        metavar="N",
        help="Look for N targets in each video or picture (default: %(default)s)",
    )
    add(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="Draw places and sizes by this number (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Find targets and write them; 0 if all files could be read."""
    args = parse_args(argv)
    import numpy as np
    from tqdm import tqdm

    from rbsf.tracker.onnx_pair import open_pair

    paths, give = list_files(args.videos)
    files = args.teacher.split(",")
    if len(files) != 2:
        raise ValueError(f"--teacher {args.teacher!r}: give two files, BACKBONE.onnx,HEAD.onnx")
    check_names(paths, args.out)
    settings = {
        "teacher": [Path(file).name for file in files],
        "count": args.count,
        "seed": args.seed,
    }
    done = finished_files(args.out, settings)
    network = open_pair(*files)
    args.out.mkdir(parents=True, exist_ok=True)
    write_record(args.out, settings, done)
    failed = 0
    for number, path in enumerate(tqdm(paths, unit="file")):
        if path.name in done:
            continue
        rng = np.random.default_rng((args.seed, number))
        try:
            done[path.name] = give(network, path, args.out, rng, args.count)
        except (ValueError, OSError) as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        write_record(args.out, settings, done)
    print(f"{args.out}: {sum(done.values())} targets in {len(done)} files")
    return 1 if failed else 0


def list_files(folder: Path) -> tuple[list[Path], Giver]:
    """The videos in a folder, or its pictures, and the function that gives one its targets.

    Raises ValueError if there are both or none.
    """
    from rbsf.datasets.video.frames import VIDEO_SUFFIXES
    from rbsf.datasets.video.images import list_images

    videos = sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    pictures = [folder / name for name in list_images(folder)] if folder.is_dir() else []
    if videos and pictures:
        fault = f"there are videos and pictures, such as {videos[0].name} and {pictures[0].name}"
        raise ValueError(f"--videos {folder}: {fault}; give each kind a folder")
    if not videos and not pictures:
        raise ValueError(f"--videos {folder}: there is no video file and no picture")
    return (videos, give_tracks) if videos else (pictures, give_boxes)


def check_names(paths: list[Path], out: Path) -> None:
    """Raise ValueError if targets would replace files or each other."""
    if out.resolve() == paths[0].parent.resolve():
        raise ValueError(f"--out {out} is the folder of --videos; give another")
    counts = Counter(path.stem for path in paths)
    for path in paths:
        if counts[path.stem] > 1:
            raise ValueError(f"several files are named {path.stem}, such as {path}; rename one")


def finished_files(out: Path, settings: dict[str, Any]) -> dict[str, int]:
    """The number of targets of each file that an earlier run has finished, by the file's name.

    Raises ValueError if that run had other settings, or if other files lie in `out`.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return {}
    foreign = f"--out {out} has files of something else; give an empty folder"
    try:
        earlier = json.loads((out / RECORD).read_text())
        others = earlier["settings"]
        done = {name: int(count) for name, count in earlier["videos"].items()}
    except DAMAGE:
        raise ValueError(foreign) from None
    if others != settings:
        raise ValueError(f"--out {out} has targets of {str(others)[:200]}; give an empty folder")
    return done


def write_record(out: Path, settings: dict[str, Any], done: dict[str, int]) -> None:
    """Write what `finished_files` reads."""
    from rbsf.system.files import write_atomically

    record = {"settings": settings, "videos": done}
    write_atomically(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def read_frames(path: Path) -> tuple[list[np.ndarray], int]:
    """The first frames of a video, `[H, W, 3]` uint8 RGB, and the number of those after them.

    They are as many as MOST_BYTES hold.
    """
    from rbsf.datasets.video.frames import open_frames

    frames = iter(open_frames(str(path)))
    first = next(frames)
    kept = [first, *islice(frames, MOST_BYTES // first.nbytes - 1)]
    return kept, sum(1 for _ in frames)


def give_tracks(
    network: OnnxPair, path: Path, out: Path, rng: np.random.Generator, count: int
) -> int:
    """Find up to `count` tracks in a video and write them. Returns their number."""
    from tqdm import tqdm

    from rbsf.tools.tracking.discovery import find_tracks

    frames, left_out = read_frames(path)
    if left_out:
        tqdm.write(f"{path} is large: no target is looked for in its last {left_out} frames")
    return write_tracks(path, out, find_tracks(network, frames, rng, count), left_out)


def give_boxes(
    network: OnnxPair, path: Path, out: Path, rng: np.random.Generator, count: int
) -> int:
    """Find up to `count` targets in a picture, and write their boxes. Returns their number."""
    from rbsf.datasets.video.images import read_image
    from rbsf.tools.tracking.discovery import most_distinct

    boxes = most_distinct(network, read_image(path), rng, count)
    write_boxes(path, out, boxes)
    return len(boxes)


def write_boxes(picture: Path, out: Path, boxes: Sequence[np.ndarray]) -> None:
    """Write boxes `[4]` of a picture into the table, and a link to the picture beside it.

    Rows of the same picture, which a killed run may have left, are replaced. A picture without
    boxes gets no link.
    """
    from rbsf.system.files import write_atomically
    from rbsf.system.text import read_text

    table = out / TABLE
    rows = list(csv.reader(io.StringIO(read_text(table))))[1:] if table.is_file() else []
    kept = [row for row in rows if row[:1] != [picture.name]]
    added = [[picture.name, *(f"{value:.1f}" for value in box)] for box in boxes]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *kept, *added])
    if added:
        link_to(picture, out / picture.name)
    write_atomically(table, text.getvalue().encode())


def link_to(path: Path, link: Path) -> None:
    """Make `link` a link to `path`, also where an earlier run has made one."""
    link.unlink(missing_ok=True)
    link.symlink_to(path.resolve())


def write_tracks(video: Path, out: Path, tracks: Iterator[np.ndarray], left_out: int = 0) -> int:
    """Write tracks `[N, 4]` of a video, and a link to it beside each. Returns their number.

    `left_out`: number of the video's frames after those of the tracks.
    """
    from rbsf.system.files import write_atomically

    count = 0
    for count, boxes in enumerate(tracks, 1):
        name = f"{video.stem}_{count}"
        link_to(video, out / f"{name}{video.suffix}")
        lines = [",".join(f"{value:.1f}" for value in box) for box in boxes]
        lines += [UNKNOWN] * left_out
        write_atomically(out / f"{name}.txt", "".join(f"{line}\n" for line in lines).encode())
    return count


if __name__ == "__main__":
    run(main)
