"""Draw the first pairs that a training would see, as OUT/pairs.png.

It takes the flags of tools/train_rbsf.py (with --resume: the settings of the training in --out) and
trains nothing. Each pair is an exemplar and its search crop, in which a green circle marks where
the response should peak. A red frame marks a search crop without the exemplar's target.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import require, run

if TYPE_CHECKING:
    import numpy as np

    from rbsf.datasets.pairs.pair_dataset import Item

EXAMPLE = "--data pairs.db --paste-share 1 --out runs/look"
COUNT, COLUMNS = 32, 4  # pairs
GREEN, RED = (0, 255, 0), (255, 0, 0)


def draw_pair(item: Item) -> np.ndarray:
    """A pair of `PairDataset` side by side: `[255, 384, 3]` uint8 RGB."""
    import cv2  # here, as below, so that `run` reports what fails in these imports
    import numpy as np

    from rbsf.tracker.task import RADIUS

    exemplar, search = item["exemplar"].permute(1, 2, 0), item["search"].permute(1, 2, 0)
    exemplar = np.ascontiguousarray(exemplar.numpy())  # [127, 127, 3]
    search = np.ascontiguousarray(search.numpy())  # [255, 255, 3]
    side = len(search)
    if item["negative"]:
        cv2.rectangle(search, (0, 0), (side - 1, side - 1), RED, 3)
    else:
        x, y = (side // 2 + item["shift"].numpy()).round().astype(int).tolist()
        cv2.circle(search, (x, y), RADIUS, GREEN, 1)
    left = cv2.copyMakeBorder(exemplar, 0, side - len(exemplar), 0, 2, cv2.BORDER_CONSTANT)
    return np.hstack([left, search])


def sheet(items: Sequence[Item]) -> np.ndarray:
    """Pairs in rows of COLUMNS, left to right: `[H, W, 3]` uint8 RGB."""
    import cv2
    import numpy as np

    tiles = [cv2.copyMakeBorder(draw_pair(item), 0, 4, 0, 4, cv2.BORDER_CONSTANT) for item in items]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    starts = range(0, len(tiles), COLUMNS)
    return np.vstack([np.hstack(tiles[start : start + COLUMNS]) for start in starts])


def main(argv: list[str] | None = None) -> int:
    """Write the picture and print its name."""
    require("train")
    import cv2

    from rbsf.system.files import write_atomically
    from rbsf.tools.recipes.trackers import read_recipe
    from rbsf.train.distributed import ALONE

    recipe_class, config = read_recipe(argv, __doc__ or "", EXAMPLE)
    recipe = recipe_class(config, ALONE)
    recipe.open()
    items = [recipe.dataset[i] for i in range(min(COUNT, len(recipe.dataset)))]
    picture = Path(config.out) / "pairs.png"
    _, encoded = cv2.imencode(".png", cv2.cvtColor(sheet(items), cv2.COLOR_RGB2BGR))
    write_atomically(picture, encoded.tobytes())
    print(f"{picture}: {len(items)} pairs")
    return 0


if __name__ == "__main__":
    run(main)
