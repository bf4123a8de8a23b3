"""Make README's animation: a tracker follows a car on a made-up street.

The tracker runs on all frames, 25 a second; the animation shows every second one. Each picture has
the tracker's box and score as `rbsf track` draws them, and the true box, thin and white, while the
target is visible. Below are the scores of all frames so far: green for tracked, yellow for unsure,
red for lost.

The street was arranged so that tracking succeeds: in a first arrangement a red car came out of the
bridge before the target did, and RB-SF followed that car for 3 s.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import check_writable, positive_int, require, run, seed_number
from rbsf.tracker.flags import add_network_flags, add_weights_flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from rbsf.tracker.states import Result

STEP = 2  # one of so many frames is shown
STRIP = 46  # height of the strip with the score, in pixels
TEXT_WIDTH = 150  # pixels for text, to the left of the curve
DARK, GRAY, WHITE = (24, 26, 30), (130, 134, 140), (255, 255, 255)  # RGB
COLORS = {"tracked": (64, 220, 64), "unsure": (250, 200, 40), "lost": (255, 40, 40)}  # RGB


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, "--out street.webp --frames 100")
    add = first.add_argument
    add(
        "--out",
        type=Path,
        default=Path("docs/rbsf.webp"),
        metavar="PATH",
        help="Write the animated WebP to this file",
    )
    add(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="Draw the street's looks by this number",
    )
    add("--frames", type=positive_int, default=250, metavar="N", help="Make a video of N frames")
    add(
        "--quality",
        type=positive_int,
        default=70,
        metavar="N",
        help="Quality of the pictures, 1 to 100",
    )
    add_weights_flag(first)
    add_network_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Make the video, track it, draw it; returns 0."""
    args = parse_args(argv)
    require("eval")  # Matplotlib brings Pillow
    check_writable(args.out)
    import numpy as np

    from rbsf.datasets.synthetic.street import FPS

    shown: list[np.ndarray] = []
    results: list[Result] = []
    truth: list[np.ndarray] = []
    for image, result, box in track(args):
        results.append(result)
        truth.append(box)
        if len(results) % STEP == 1:
            picture = draw_boxes(image, result, box)
            shown.append(np.vstack([picture, draw_score(results, args.frames, image.shape[1])]))
    save(args.out, shown, round(1000 * STEP / FPS), args.quality)
    print(f"{args.out}: {len(shown)} pictures, {args.out.stat().st_size / 1e6:.2f} MB")
    print(describe(results, np.array(truth)))
    return 0


def track(args: argparse.Namespace) -> Iterator[tuple[np.ndarray, Result, np.ndarray]]:
    """Yield each frame of the street, `[H, W, 3]` uint8 RGB, the result, and the true box."""
    from tqdm import tqdm

    from rbsf.datasets.synthetic.street import Street
    from rbsf.tracker.loading import constants_of, load_network, make_tracker
    from rbsf.tracker.states import Result

    network = load_network(args.weights, args.device, args.precision, args.threads, args.engine)
    tracker = make_tracker(network, constants_of(args.weights)())
    street = Street(args.seed)
    for number in tqdm(range(args.frames), unit="frame"):
        image, box = street.render(number)
        if number:
            yield image, tracker.update(image), box
        else:
            tracker.init(image, box.tolist())
            yield image, Result(box, 1.0), box


def draw_boxes(image: np.ndarray, result: Result, box: np.ndarray) -> np.ndarray:
    """Copy a frame; draw the true box, if the target is visible, and the tracker's."""
    import cv2
    import numpy as np

    from rbsf.tools.tracking.drawing import draw

    image = image.copy()
    if np.isfinite(box).all():
        x, y, w, h = (round(float(v)) for v in box)
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), WHITE, 1)
    return draw(image, {1: result})


def draw_score(results: list[Result], frames: int, width: int) -> np.ndarray:
    """The strip of the score so far, `[STRIP, width, 3]` uint8 RGB, with room for `frames`."""
    import cv2
    import numpy as np

    strip = np.full((STRIP, width, 3), DARK, np.uint8)
    state, score = results[-1].state.value, results[-1].score
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, f"score {score:.2f}", (10, 19), font, 0.45, WHITE, 1, cv2.LINE_AA)
    cv2.putText(strip, state, (10, 37), font, 0.45, COLORS[state], 1, cv2.LINE_AA)
    bottom, height = STRIP - 6, STRIP - 12
    cv2.line(strip, (TEXT_WIDTH, bottom), (width - 10, bottom), GRAY, 1)
    across = np.linspace(TEXT_WIDTH, width - 10, frames).round().astype(int).tolist()
    for number, result in enumerate(results):
        top = bottom - max(3, round(height * result.score))
        right = across[min(number + 1, frames - 1)]
        cv2.rectangle(strip, (across[number], top), (right, bottom), COLORS[result.state.value], -1)
    return strip


def save(path: Path, pictures: list[np.ndarray], milliseconds: int, quality: int) -> None:
    """Write an animated WebP that repeats forever."""
    from PIL import Image

    from rbsf.system.files import write_atomically

    first, *others = [Image.fromarray(picture) for picture in pictures]
    write_atomically(
        path,
        lambda temporary: first.save(
            temporary,
            save_all=True,
            append_images=others,
            duration=milliseconds,
            loop=0,
            quality=quality,
            method=4,
        ),
    )


def describe(results: list[Result], truth: np.ndarray) -> str:
    """How well the tracker did, in a sentence."""
    import numpy as np

    from rbsf.eval.metrics import overlaps

    visible = np.isfinite(truth).all(axis=1)
    boxes = np.array([result.box for result in results])
    overlap = overlaps(boxes[visible], truth[visible])
    lost = sum(result.lost for result in results)
    return (
        f"the target is visible in {visible.sum()} of {len(results)} frames, in which the mean"
        f" overlap is {overlap.mean():.2f}; the tracker says lost in {lost} frames"
    )


if __name__ == "__main__":
    run(main)
