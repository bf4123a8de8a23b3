"""Give videos that have no boxes targets to learn from: what a published tracker follows in them.

The tracker's box regression pulls random boxes onto things. Each thing is followed through the
video and back again. The frames in which both ways agree become its track. Half of the tracks begin
in the first frame, half in the last. A track NAME_1.txt has a box for each frame, or nan where none
is known; it stands beside a link to the video. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, run, seed_number

if TYPE_CHECKING:
    import numpy as np

    from rbsf.tracker.anchor_free import AnchorFree
    from rbsf.tracker.onnx_pair import OnnxPair

EXAMPLE = "--videos unlabelled --teacher backbone.onnx,head.onnx --out tracks"
SIZES = (0.08, 0.4)  # least and greatest mean side of a box, as shares of the frame's short side
MAX_ASPECT = 2.0  # largest width / height, or height / width
TRIES = 8  # random boxes for each track that is wanted
LOOKS = 3  # how often a box is searched for in its own frame before it counts as found
HELD = 0.8  # least overlap of a box with itself after that
CONFINED = 0.7  # least share of the class map that lies on the box
APART = 0.4  # largest overlap of two tracks where they begin
LARGEST = 0.3  # largest area of a target, as a share of the frame
AGREED = 0.6  # least overlap of the boxes of both ways
CERTAIN = 0.9  # least score on the way there
SHORTEST = 10  # least number of frames of a track
RECORD = "tracks.json"  # in --out: settings, and the number of tracks of each finished video
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE)
    add = first.add_argument
    add(
        "--videos",
        type=Path,
        required=True,
        metavar="PATH",
        help="Give targets to the video files in this folder",
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
        help="Look for N tracks in each video (default: %(default)s)",
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
    """Find tracks and write them; 0 if all videos could be read."""
    args = parse_args(argv)
    import numpy as np
    from tqdm import tqdm

    from rbsf.datasets.video.frames import VIDEO_SUFFIXES
    from rbsf.tracker.onnx_pair import open_pair

    videos = sorted(path for path in args.videos.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise ValueError(f"--videos {args.videos}: there is no video file")
    files = args.teacher.split(",")
    if len(files) != 2:
        raise ValueError(f"--teacher {args.teacher!r}: give two files, BACKBONE.onnx,HEAD.onnx")
    check_names(videos, args.out)
    settings = {
        "teacher": [Path(file).name for file in files],
        "count": args.count,
        "seed": args.seed,
    }
    done = finished_videos(args.out, settings)
    network = open_pair(*files)
    args.out.mkdir(parents=True, exist_ok=True)
    write_record(args.out, settings, done)
    failed = 0
    for number, path in enumerate(tqdm(videos, unit="video")):
        if path.name in done:
            continue
        rng = np.random.default_rng((args.seed, number))
        try:
            frames, left_out = read_frames(path)
        except (ValueError, OSError) as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        if left_out:
            tqdm.write(f"{path} is large: no target is looked for in its last {left_out} frames")
        tracks = find_tracks(network, frames, rng, args.count)
        done[path.name] = write_tracks(path, args.out, tracks, left_out)
        write_record(args.out, settings, done)
    print(f"{args.out}: {sum(done.values())} tracks in {len(done)} videos")
    return 1 if failed else 0


def check_names(videos: list[Path], out: Path) -> None:
    """Raise ValueError if tracks would replace videos or each other."""
    if out.resolve() == videos[0].parent.resolve():
        raise ValueError(f"--out {out} is the folder of the videos; give another")
    names = [path.stem for path in videos]
    for path in videos:
        if names.count(path.stem) > 1:
            raise ValueError(f"several videos are named {path.stem}, such as {path}; rename one")


def finished_videos(out: Path, settings: dict[str, Any]) -> dict[str, int]:
    """The number of tracks of each video that an earlier run has finished, by the video's name.

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
        raise ValueError(f"--out {out} has tracks of {str(others)[:200]}; give an empty folder")
    return done


def write_record(out: Path, settings: dict[str, Any], done: dict[str, int]) -> None:
    """Write what `finished_videos` reads."""
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


def write_tracks(video: Path, out: Path, tracks: Iterator[np.ndarray], left_out: int = 0) -> int:
    """Write tracks `[N, 4]` of a video, and a link to it beside each. Returns their number.

    `left_out`: number of the video's frames after those of the tracks.
    """
    from rbsf.system.files import write_atomically

    count = 0
    for count, boxes in enumerate(tracks, 1):
        name = f"{video.stem}_{count}"
        link = out / f"{name}{video.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(video.resolve())
        lines = [",".join(f"{value:.1f}" for value in box) for box in boxes]
        lines += [UNKNOWN] * left_out
        write_atomically(out / f"{name}.txt", "".join(f"{line}\n" for line in lines).encode())
    return count


def find_tracks(
    network: OnnxPair, frames: Sequence[np.ndarray], rng: np.random.Generator, count: int
) -> Iterator[np.ndarray]:
    """Tracks `[N, 4]` of up to `count` targets: x, y, w, h for each frame, or nan."""
    for backwards in (False, True):
        way = frames[::-1] if backwards else frames
        for box in find_targets(network, way[0], rng, (count + backwards) // 2):
            boxes = follow_and_return(network, way, box)
            if (boxes[:, 2] > 0).sum() >= SHORTEST:
                yield boxes[::-1] if backwards else boxes


def find_targets(
    network: OnnxPair, frame: np.ndarray, rng: np.random.Generator, count: int
) -> list[np.ndarray]:
    """Boxes of up to `count` things in a frame, on which the network's boxes come to rest."""
    found: list[np.ndarray] = []
    height, width = frame.shape[:2]
    for _ in range(TRIES * count):
        box = settled(network, frame, random_box(rng, height, width))
        if box is None or any(overlap(box, other) > APART for other in found):
            continue
        found.append(box)
        if len(found) == count:
            break
    return found


def settled(network: OnnxPair, frame: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    """The box that the network makes of `start`; None if it finds no thing of clear bounds."""
    box = start
    for _ in range(2):
        tracker = new_tracker(network)
        tracker.init(frame, box)
        before = box
        for _ in range(LOOKS):
            seen = tracker.update(frame)
        box = seen.box
    large = box[2] * box[3] > LARGEST * frame.shape[0] * frame.shape[1]
    if large or seen.score < CERTAIN or overlap(before, box) < HELD:
        return None
    return box if share_on_box(network, frame, box) >= CONFINED else None


def share_on_box(network: OnnxPair, frame: np.ndarray, box: np.ndarray) -> float:
    """The share of the class map that lies on the box, if the box is the template and searched."""
    import numpy as np

    from rbsf.tracker.target import Target

    tracker = new_tracker(network)
    tracker.init(frame, box)
    tracker.update(frame)
    seen = tracker.response
    assert seen is not None  # for the type checker
    spacing = seen.box[2:] / seen.values.shape[::-1]  # x, y: frame pixels between positions
    reach = Target.of(frame, box)[0].size / 2 + spacing / 2
    down, across = (np.abs(np.arange(n) - (n - 1) / 2) for n in seen.values.shape)
    on_rows = down * spacing[1] <= reach[1]
    on_columns = across * spacing[0] <= reach[0]
    return float(seen.values[np.ix_(on_rows, on_columns)].sum() / seen.values.sum())


def follow_and_return(
    network: OnnxPair, frames: Sequence[np.ndarray], box: np.ndarray
) -> np.ndarray:
    """Boxes `[N, 4]` from `box` in the first frame on, or nan where the way back does not agree."""
    import numpy as np

    from rbsf.eval.metrics import overlaps

    there = follow(network, frames, box)
    back = follow(network, frames[::-1], there.boxes[-1]).boxes[::-1]
    known = (overlaps(there.boxes, back) >= AGREED) & (there.scores >= CERTAIN)
    return np.where(known[:, None], there.boxes, np.nan)


class Way(NamedTuple):
    """A target's boxes `[N, 4]`, and their scores `[N]`."""

    boxes: np.ndarray
    scores: np.ndarray


def follow(network: OnnxPair, frames: Sequence[np.ndarray], box: np.ndarray) -> Way:
    """Follow the target in `box` of the first frame."""
    import numpy as np

    tracker = new_tracker(network)
    tracker.init(frames[0], box)
    seen = [tracker.update(frame) for frame in frames[1:]]
    boxes = np.array([box, *(each.box for each in seen)])
    return Way(boxes, np.array([1.0, *(each.score for each in seen)]))


def new_tracker(network: OnnxPair) -> AnchorFree:
    """A tracker by the rules of the network's author."""
    from rbsf.tracker.anchor_free import AnchorFree

    return AnchorFree(network, network.constants)


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    import numpy as np

    from rbsf.eval.metrics import overlaps

    return float(overlaps(np.array([box]), np.array([other]))[0])


def random_box(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random box x, y, w, h in pixels inside of a frame."""
    import numpy as np

    side = min(height, width) * rng.uniform(*SIZES)
    stretch = MAX_ASPECT ** rng.uniform(-0.5, 0.5)
    size = np.array([side * stretch, side / stretch])
    return np.concatenate([rng.uniform(0, [width, height] - size), size])


if __name__ == "__main__":
    run(main)
