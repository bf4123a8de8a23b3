"""Follow a target in a video with a tracker's two ONNX files.

    python onnx_runner.py --backbone net_backbone.onnx --head net_head.onnx \
        --video in.mp4 --init 120,80,40,60 --boxes boxes.csv

`tools/export.py --format onnx` writes the files, for RB-SF 2, RB-SF, XNOR-SF and SiamFC. This
program needs only NumPy, OpenCV and ONNX Runtime, and no other file of this project: copy it into
your product. Sizes, strides and constants are in the files' metadata.

    tracker = open_tracker("net_backbone.onnx", "net_head.onnx")
    tracker.init(first_image, (120, 80, 40, 60))
    box, score = tracker.update(next_image)

Images are `[H, W, 3]` uint8 RGB, all of one size. Boxes are x, y, width and height in pixels from
0. A lost target is not searched for: the score falls, and your product decides what to do then.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

FORMAT = "rbsf-onnx-1"


class Network:
    """The two graphs in ONNX Runtime, and `about`, the metadata of their files."""

    def __init__(self, backbone: str | Path, head: str | Path, threads: int = 1) -> None:
        """Raises ValueError for files of another project, or of two trackers."""
        self._backbone, self._head = _session(backbone, threads), _session(head, threads)
        self.about = _about(self._backbone, backbone, "backbone")
        about_head = _about(self._head, head, "head")
        for name in ("model", "constants"):
            if self.about[name] != about_head[name]:
                raise ValueError(
                    f"{backbone} and {head} are not of one tracker; give its two files"
                )
        self.constants: dict[str, Any] = json.loads(self.about["constants"])
        self.exemplar_size = int(self.about["exemplar_size"])
        self.search_size = int(self.about["search_size"])
        self.stride = int(self.about["stride"])

    def features(self, crops: np.ndarray) -> np.ndarray:
        """Crops `[N, S, S, 3]` uint8 RGB to features `[N, C, h, w]`."""
        pixels = crops.transpose(0, 3, 1, 2).astype(np.float32)  # [N, 3, S, S]
        return self._backbone.run(None, {"image": pixels})[0]

    def maps(self, template: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The head's maps `[N, M, rows, columns]`.

        `template`: features `[1, C, k, k]` of the exemplar; `features`: `[N, C, h, w]` of crops.
        """
        return self._head.run(None, {"template": template, "features": features})[0]


def _session(path: str | Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"{path}: ONNX Runtime cannot read it: {reason}") from None


def _about(session: Any, path: str | Path, part: str) -> dict[str, str]:
    about = session.get_modelmeta().custom_metadata_map
    if (about.get("format"), about.get("part")) != (FORMAT, part):
        raise ValueError(f"{path}: no {part} of a tracker; export it by tools/export.py")
    return about


class Tracker:
    """Follow one target: `init` on the first image, then `update` on each next one."""

    def __init__(self, network: Network) -> None:
        self.network, self.constants = network, network.constants

    def init(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Learn the target in `box`; raises ValueError for a box that is not in the image."""
        x, y, w, h = _inside(box, image)
        self.frame = np.array([image.shape[1], image.shape[0]])  # (width, height)
        self.center, self.size = np.array([x + (w - 1) / 2, y + (h - 1) / 2]), np.array([w, h])
        self.shown = self.center  # the middle of the box that was returned
        self.fill = cv2.mean(image)[:3]  # the colour outside of the image
        side = crop_side(self.size, self.context)
        crop = self.crop(image, side, self.network.exemplar_size)
        self.template = self.network.features(crop[None])

    def update(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """The target's box in the next image, and a score from 0 to 1."""
        if (image.shape[1], image.shape[0]) != tuple(self.frame):
            width, height = self.frame
            raise ValueError(f"the image is {image.shape}; expected {height} x {width} x 3")
        score = self.follow(image)
        self.shown = self.steadied()
        return np.array([*(self.shown - (self.size - 1) / 2), *self.size]), score

    def steadied(self) -> np.ndarray:
        """The middle (x, y) of the next box: of a step of d box sizes, d / (d + steadiness)."""
        step = self.center - self.shown
        length = math.hypot(*step) / math.sqrt(self.size.prod())
        if not length:
            return self.center
        return self.shown + step * length / (length + self.constants.get("steadiness", 0.0))

    def follow(self, image: np.ndarray) -> float:
        """Set `center` and `size` by the next image, and return the score."""
        raise NotImplementedError

    @property
    def context(self) -> float:
        """Share of (w + h) / 2 that a crop has on each side of the target."""
        return float(self.network.about["context"])

    @property
    def scale(self) -> float:
        """Pixels of the image in a pixel of a crop."""
        return crop_side(self.size, self.context) / self.network.exemplar_size

    def crop(self, image: np.ndarray, side: float, pixels: int) -> np.ndarray:
        """A square of `side` image pixels around the target, `[pixels, pixels, 3]` uint8."""
        return crop_square(image, self.center, side, pixels, self.fill)

    def move(self, offset: np.ndarray) -> None:
        """Move the target by (x, y) pixels, but not out of the image."""
        self.center = np.clip(self.center + offset, 0, self.frame - 1)


class HeadTracker(Tracker):
    """RB-SF 2: its head gives, for each place, a class and the distances to the target's sides."""

    def init(self, image: np.ndarray, box: Sequence[float]) -> None:
        """See `Tracker`; this also finds a correction of sizes in this image."""
        super().init(image, box)
        self.correction = np.ones(2)
        share = self.constants.get("size_correction", 0.0)  # older files have none
        if not share:
            return
        target, (left, top, right, bottom) = self._look(image)
        found = np.stack([left + right, top + bottom])
        weights = (target * _window(target.shape)) ** 2
        errors = np.log(found / (self.size / self.scale)[:, None, None])
        error = (errors * weights).sum(axis=(1, 2)) / weights.sum()
        most = math.log(self.constants["most_correction"])
        self.correction = np.exp(-share * np.clip(error, -most, most))

    def follow(self, image: np.ndarray) -> float:
        """See `Tracker`."""
        constants, scale = self.constants, self.scale
        target, sides = self._look(image)
        left, top, right, bottom = sides
        size = np.stack([left + right, top + bottom])  # [2, rows, columns], crop pixels
        size *= self.correction[:, None, None]
        trust = target * self._penalty(size, self.size / scale)
        window = _window(target.shape)
        share = constants["window_influence"]
        final = trust * (1 - share) + window * share
        at = row, column = np.unravel_index(final.argmax(), final.shape)
        likely = float(target[at]) * math.exp(-constants["score_shift"])
        score = likely / (likely + (1 - float(target[at])))
        if score < constants["faint_score"]:
            return score
        if score >= constants["sure_score"]:
            rate = constants["size_rate"] * trust[at]
            new = self.size * (1 - rate) + size[:, row, column] * scale * rate
            self.size = np.clip(new, constants["smallest_size"], self.frame)
        reach = constants.get("middle_reach", 0.0) * size[:, row, column]  # older files have none
        middles = _middles(sides, self.network.stride)
        self.move(_mean_middle(middles, target, at, reach) * scale)
        return score

    def _look(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Result of `read_maps` for the region around the target."""
        pixels = self.network.search_size
        crop = self.crop(image, self.scale * pixels, pixels)
        maps = self.network.maps(self.template, self.network.features(crop[None]))
        return read_maps(maps[0])

    def _penalty(self, size: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Factors `[rows, columns]`, lower where size and proportions differ more from `before`."""
        growth = _larger(crop_side(size, self.context) / crop_side(before, self.context))
        stretch = _larger((size[0] / size[1]) / (before[0] / before[1]))
        return np.exp(-(growth * stretch - 1) * self.constants["change_penalty"])


class ResponseTracker(Tracker):
    """RB-SF, XNOR-SF and SiamFC, by SiamFC's published rules.

    The template stays that of the first image, and the box keeps its proportions.
    """

    def init(self, image: np.ndarray, box: Sequence[float]) -> None:
        """See `Tracker`."""
        super().init(image, box)
        self.first_size, self.zoom = self.size, 1.0  # the target's size is their product
        self.learned = self.template[0]  # what later looks are compared with, for the score

    def follow(self, image: np.ndarray) -> float:
        """See `Tracker`."""
        constants, scale = self.constants, self.scale
        half, pixels = constants["scales"] // 2, self.network.search_size
        steps = constants["scale_step"] ** np.arange(-half, half + 1)
        crops = [self.crop(image, scale * pixels * step, pixels) for step in steps]
        features = self.network.features(np.stack(crops))
        responses = self.network.maps(self.template, features)[:, 0]  # [N, rows, columns]
        best = self._best_scale(responses)
        offset = self._peak(responses[best])  # crop pixels
        score = self._score(features[best], offset)
        self.move(offset * scale * steps[best])
        rate = constants["scale_rate"]
        self.zoom = np.clip(self.zoom * (1 - rate + rate * steps[best]), *constants["size_limits"])
        self.size = self.first_size * self.zoom
        return score

    def _best_scale(self, responses: np.ndarray) -> int:
        peaks = responses.max(axis=(1, 2)).astype(np.float64)
        penalty = np.full(len(peaks), 1 - self.constants["scale_penalty"])
        penalty[len(peaks) // 2] = 0
        return int(np.argmax(peaks - penalty * np.abs(peaks)))

    def _peak(self, response: np.ndarray) -> np.ndarray:
        """(x, y) of the highest place of the response, in crop pixels from the middle."""
        up, share = self.constants["response_up"], np.float32(self.constants["window_influence"])
        rise = _upsampling(len(response), up)
        fine = rise @ (response @ rise.T)
        fine -= fine.min()
        total = fine.sum() + np.float32(1e-16)
        final = fine * (1 - share) + share * total * _cosine_window(len(fine))
        row, column = divmod(int(final.argmax()), len(final))
        return (np.array([column, row]) - (len(final) - 1) / 2) * self.network.stride / up

    def _score(self, features: np.ndarray, offset: np.ndarray) -> float:
        """How sure it is that the target is at `offset`, by its likeness to earlier looks.

        A look is learned if it is like the first image's.
        """
        first, constants = self.template[0], self.constants
        look = _look_at(features, offset / self.network.stride, first.shape[-1])
        known = constants["score_slope"] * _likeness(self.learned, look)
        if _likeness(first, look) >= constants["score_confirming"]:
            share = np.float32(constants["score_rate"])
            self.learned = self.learned + share * (look - self.learned)
        return 1 / (1 + float(np.exp(-(known + constants["score_offset"]))))


def open_tracker(backbone: str | Path, head: str | Path, threads: int = 1) -> Tracker:
    """The tracker of two files, on `threads` CPU threads. Raises the errors of `Network`."""
    network = Network(backbone, head, threads)
    return HeadTracker(network) if network.about["model"] == "rbsf2" else ResponseTracker(network)


def read_maps(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities `[rows, columns]` and sides `[4, rows, columns]` of RB-SF 2's maps.

    The sides are distances to the target's left, top, right and bottom side in crop pixels.
    """
    wide = maps.astype(np.float64)
    return 1 / (1 + np.exp(-wide[0])), np.exp(wide[1:5])


def crop_side(size: np.ndarray, context: float) -> Any:
    """Side of the square around a target of `size` (w, h), with its surroundings."""
    margin = context * (size[0] + size[1])
    return np.sqrt((size[0] + margin) * (size[1] + margin))


def crop_square(
    image: np.ndarray, center: np.ndarray, side: float, pixels: int, fill: Sequence[float]
) -> np.ndarray:
    """Cut a square of `side` image pixels around `center`, and resize it to `pixels`."""
    height, width = image.shape[:2]
    scale = side / pixels
    start = center - scale * (pixels - 1) / 2
    first = np.clip(np.floor(start), 0, (width - 1, height - 1)).astype(int)
    left, top = first
    right, bottom = np.maximum(np.ceil(start + side).astype(int), first) + 1
    part = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2RGBA)
    to_part = np.array([[scale, 0, start[0] - left], [0, scale, start[1] - top]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = (*fill, 0)
    crop = cv2.warpAffine(part, to_part, (pixels, pixels), None, how, cv2.BORDER_CONSTANT, border)
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB)


def _inside(box: Sequence[float], image: np.ndarray) -> np.ndarray:
    """The part of a box that lies in the image."""
    height, width = image.shape[:2]
    given = np.asarray(box, np.float64)
    if given.shape != (4,) or not np.isfinite(given).all() or min(given[2:]) <= 0:
        raise ValueError(f"box {box}: give x,y,w,h in pixels, with w and h above 0")
    x, y, w, h = given
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, width), min(y + h, height)
    if min(right - left, bottom - top) < 1:
        raise ValueError(f"box {box}: less than a pixel of it is in the image, {width} x {height}")
    return np.array([left, top, right - left, bottom - top])


def _middles(sides: np.ndarray, stride: int) -> np.ndarray:
    """(x, y) of the middle of each place's box `[2, rows, columns]`, from the crop's middle."""
    left, top, right, bottom = sides
    rows, columns = left.shape
    x = (np.arange(columns) - (columns - 1) / 2) * stride
    y = (np.arange(rows) - (rows - 1) / 2) * stride
    return np.stack([x + (right - left) / 2, y[:, None] + (bottom - top) / 2])


def _mean_middle(
    middles: np.ndarray, target: np.ndarray, at: tuple[int, int], reach: np.ndarray
) -> np.ndarray:
    """The mean of `middles` `[2, rows, columns]` that lie about `reach` (x, y) around that `at`."""
    best = middles[:, at[0], at[1]]
    if not reach.all():
        return best
    distance = (middles - best[:, None, None]) / reach[:, None, None]
    weights = target**2 * np.exp(-(distance**2).sum(axis=0) / 2)
    if weights[at] < 1e-12:
        return best
    return (middles * weights).sum(axis=(1, 2)) / weights.sum()


def _window(shape: tuple[int, ...]) -> np.ndarray:
    """The cosine window, `[rows, columns]`."""
    rows, columns = shape
    return np.outer(np.hanning(rows), np.hanning(columns))


def _larger(ratio: np.ndarray) -> np.ndarray:
    return np.maximum(ratio, 1 / ratio)


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine between two arrays."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / max(norms, 1e-12)


def _look_at(features: np.ndarray, cells: np.ndarray, size: int) -> np.ndarray:
    """Features `[C, size, size]`, interpolated, of the place `cells` (x, y) off the middle."""
    last = features.shape[-1] - size
    x, y = np.clip(cells + last / 2, 0, last)
    column, row = (min(int(start), last - 1) for start in (x, y))
    right, down = np.float32(x - column), np.float32(y - row)
    part = features[:, row : row + size + 1, column : column + size + 1]
    part = part[:, :-1] + down * (part[:, 1:] - part[:, :-1])
    return part[..., :-1] + right * (part[..., 1:] - part[..., :-1])


@cache
def _upsampling(size: int, up: int) -> np.ndarray:
    """Matrix `[size * up, size]` of bicubic interpolation along one axis."""
    identity = np.eye(size, dtype=np.float32)
    return cv2.resize(identity, (size, size * up), interpolation=cv2.INTER_CUBIC)


@cache
def _cosine_window(size: int) -> np.ndarray:
    window = np.outer(np.hanning(size), np.hanning(size))
    return (window / window.sum()).astype(np.float32)


def frames(video: str) -> Iterator[np.ndarray]:
    """The images of a video, RGB; raises ValueError if it has none."""
    capture = cv2.VideoCapture(video)
    good, image = capture.read()
    if not good:
        raise ValueError(f"{video}: OpenCV reads no image from it")
    while good:
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        good, image = capture.read()


def rows(tracker: Tracker, images: Iterator[np.ndarray], box: Sequence[float]) -> Iterator[str]:
    """Lines of a CSV file: a head, and for each image its number, the box and the score."""
    tracker.init(next(images), box)
    yield "frame,x,y,w,h,score"
    yield ",".join(f"{value:.3f}".rstrip("0").rstrip(".") for value in (0, *box, 1))
    for number, image in enumerate(images, 1):
        found, score = tracker.update(image)
        yield f"{number}," + ",".join(f"{value:.3f}" for value in (*found, score))


def read_box(text: str) -> list[float]:
    """The numbers of --init; raises ValueError that names the flag."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--init {text}: give X,Y,W,H in pixels") from None


def check_output(path: Path, inputs: Sequence[str]) -> None:
    """Raise ValueError if --boxes would replace one of the files that are read."""
    for name in inputs:
        if path.exists() and Path(name).exists() and path.samefile(name):
            raise ValueError(f"--boxes {path}: this file is read; give another name")


def write_lines(path: Path, lines: Iterator[str]) -> None:
    """Write lines as they come to PATH.part, which becomes PATH at the end, also after an error."""
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("w", buffering=1) as file:  # each line is written at once
            file.writelines(f"{line}\n" for line in lines)
    finally:
        if part.exists() and part.stat().st_size:
            os.replace(part, path)


def main(argv: list[str] | None = None) -> None:
    """Track, and print the boxes or write them to --boxes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backbone", required=True, metavar="PATH", help="the tracker's ..._backbone.onnx")
    add("--head", required=True, metavar="PATH", help="the tracker's ..._head.onnx")
    add("--video", required=True, metavar="PATH", help="what cv2.VideoCapture reads")
    add("--init", required=True, metavar="X,Y,W,H", help="the target in the first frame, pixels")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    add("--boxes", type=Path, metavar="PATH", help="CSV to write (default: print the boxes)")
    args = parser.parse_args(argv)
    try:
        box = read_box(args.init)
        if args.boxes:
            check_output(args.boxes, (args.video, args.backbone, args.head))
        tracker = open_tracker(args.backbone, args.head, args.threads)
        lines = rows(tracker, frames(args.video), box)
        if args.boxes is None:
            for line in lines:
                print(line)
            return
        write_lines(args.boxes, lines)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as shells report Ctrl-C


if __name__ == "__main__":
    main()
