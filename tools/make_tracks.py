"""Find targets to learn from in videos or pictures without boxes, by a published tracker.

The tracker's box regression moves random boxes onto objects. In a video it follows each object to
the end and back. The frames in which both directions agree become its track. Half of the tracks
begin in the first frame, half in the last. A track NAME_1.txt has a box for each frame, or nan
where none is known; it stands beside a link to the video. In a picture the objects that stand
out best are kept. Their boxes are rows of boxes.csv, which stands beside links to the pictures. The
same command goes on with a run that was interrupted.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.files import remove_left_over, write_atomically
from rbsf.system.flags import make_parser
from rbsf.system.lock import locked
from rbsf.system.program import positive_int, run, seed_number
from rbsf.system.text import listed, one_line, read_text

if TYPE_CHECKING:
    import numpy as np

    from rbsf.tracker.onnx_pair import OnnxPair

EXAMPLE = "--videos unlabelled --teacher backbone.onnx,head.onnx --out tracks"
RECORD = "tracks.json"  # in --out: settings, and what is known of each finished file
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

    from rbsf.tracker.onnx_pair import open_pair, split_pair

    paths, give = list_files(args.videos)
    files = split_pair(args.teacher)
    if args.out.resolve() == args.videos.resolve():
        raise ValueError(f"--out {args.out} is the folder of --videos; give another")
    if give is give_tracks:
        check_names(paths)
    settings = {
        "teacher": [file.name for file in files],
        "count": args.count,
        "seed": args.seed,
    }
    make_folder(args.out)
    with locked(args.out):
        remove_left_over(args.out)
        done = finished_files(args.out, settings, paths)
        network = open_pair(*files)
        write_record(args.out, settings, done)
        failed = 0
        for path in tqdm(paths, unit="file"):
            if path.name in done:
                continue
            rng = np.random.default_rng((args.seed, *path.name.encode(errors="surrogateescape")))
            try:
                targets = give(network, path, args.out, rng, args.count)
            except (ValueError, OSError) as error:
                tqdm.write(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            done[path.name] = Finished(targets, stamp_of(path))
            write_record(args.out, settings, done)
    print(f"{args.out}: {sum(each.targets for each in done.values())} targets in {len(done)} files")
    return 1 if failed else 0


def make_folder(out: Path) -> None:
    """Make the folder --out. Raises ValueError if it is a file."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)


def list_files(folder: Path) -> tuple[list[Path], Giver]:
    """The videos in a folder, or its pictures, and the function that gives one its targets.

    Raises FileNotFoundError if the folder is missing, ValueError if it has both or none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--videos {folder} is no folder; give one with videos or pictures")
    from rbsf.datasets.video.frames import VIDEO_SUFFIXES
    from rbsf.datasets.video.images import list_images

    videos = sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    pictures = [folder / name for name in list_images(folder)]
    if videos and pictures:
        fault = f"there are videos and pictures, such as {videos[0].name} and {pictures[0].name}"
        raise ValueError(f"--videos {folder}: {fault}; give each kind a folder")
    if not videos and not pictures:
        raise ValueError(f"--videos {folder}: there is no video file and no picture")
    return (videos, give_tracks) if videos else (pictures, give_boxes)


def check_names(videos: list[Path]) -> None:
    """Raise ValueError if tracks of a video would replace those of another."""
    seen: dict[str, Path] = {}
    for path in videos:
        other = seen.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"{other} and {path.name} differ in their suffix alone; rename one")


class Finished(NamedTuple):
    """What is known of a file that has got its targets."""

    targets: int
    stamp: list[int]  # of the file, see `stamp_of`


def stamp_of(path: Path) -> list[int]:
    """Size and time of a file, which change with its content."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _differences(before: Any, now: dict[str, Any]) -> str:
    """What an earlier run had where `now` has another value."""
    if not isinstance(before, dict):
        return one_line(before, 200)
    other = {name: before.get(name) for name, value in now.items() if before.get(name) != value}
    return one_line(", ".join(f"{name} {value}" for name, value in other.items()), 200)


def finished_files(
    out: Path, settings: dict[str, Any], paths: Sequence[Path]
) -> dict[str, Finished]:
    """The files among `paths` that an earlier run has finished, by name.

    A file that has changed since, or whose targets are gone, is not finished. Raises ValueError if
    that run had other settings or other files, or if something else lies in `out`.
    """
    if not any(path.name[0] != "." for path in out.iterdir()):  # a lock has a dot
        return {}
    foreign = f"--out {out} has files of something else; give an empty folder"
    try:
        earlier = json.loads((out / RECORD).read_text())
        others = earlier["settings"]
        done = {
            name: Finished(int(count), [int(size), int(written)])
            for name, (count, (size, written)) in earlier["files"].items()
        }
    except DAMAGE:
        raise ValueError(foreign) from None
    if others != settings:
        raise ValueError(
            f"--out {out} has targets of other settings: {_differences(others, settings)};"
            " give these, or an empty folder"
        )
    there = {path.name: path for path in paths}
    if gone := sorted(done.keys() - there.keys()):
        fault = f"has targets of {listed(gone)}, not in --videos"
        raise ValueError(f"--out {out} {fault}; give the same files or an empty folder")
    rows = Counter(row[0] for row in read_rows(out))
    return {
        name: each
        for name, each in done.items()
        if each.stamp == stamp_of(there[name])
        and each.targets == (rows[name] or len(tracks_of(there[name], out)))
    }


def tracks_of(video: Path, out: Path) -> list[Path]:
    """The files of a video's tracks."""
    form = re.compile(re.escape(video.stem) + r"_\d+\.txt")
    return [path for path in out.glob("*.txt") if form.fullmatch(path.name)]


def write_record(out: Path, settings: dict[str, Any], done: dict[str, Finished]) -> None:
    """Write what `finished_files` reads."""
    record = {"settings": settings, "files": done}
    write_atomically(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def read_frames(path: Path) -> tuple[list[np.ndarray], int]:
    """The first frames of a video, `[H, W, 3]` uint8 RGB, and the number of those after them.

    They are as many as MOST_BYTES hold.
    """
    from rbsf.datasets.video.frames import open_frames

    frames = iter(open_frames(str(path)))
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: no frames")
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
    kept = [row for row in read_rows(out) if row[0] != picture.name]
    added = [[picture.name, *(f"{value:.1f}" for value in box)] for box in boxes]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *kept, *added])
    link = out / picture.name
    if added:
        link_to(picture, link)
    else:  # a link without boxes would stand for one target as a whole
        link.unlink(missing_ok=True)
    write_atomically(out / TABLE, text.getvalue().encode())


def read_rows(out: Path) -> list[list[str]]:
    """The rows of the table, without its head; none if there is no table.

    Raises ValueError, naming the file, for a table that is damaged.
    """
    table = out / TABLE
    if not table.is_file():
        return []
    rows = list(csv.reader(io.StringIO(read_text(table))))
    if rows[:1] != [HEADER] or any(len(row) != len(HEADER) for row in rows):
        raise ValueError(f"{table} is damaged; give an empty folder as --out")
    return rows[1:]


def link_to(path: Path, link: Path) -> None:
    """Make `link` a link to `path`, also where an earlier run has made one."""
    link.unlink(missing_ok=True)
    link.symlink_to(path.resolve())


def write_tracks(video: Path, out: Path, tracks: Iterator[np.ndarray], left_out: int = 0) -> int:
    """Write tracks `[N, 4]` of a video, and a link to it beside each. Returns their number.

    Those of an earlier run are removed. `left_out`: number of the video's frames after those of
    the tracks.
    """
    for old in tracks_of(video, out):
        old.unlink()
        old.with_suffix(video.suffix).unlink(missing_ok=True)
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
