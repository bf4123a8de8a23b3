"""Run a SiamFC tracker in the got10k toolkit (`got10k.experiments`)."""

from __future__ import annotations

import numpy as np
from got10k.trackers import Tracker
from PIL.Image import Image

from rbsf.tracker.siamfc import SiamFC


class GOT10kTracker(Tracker):
    """A `SiamFC` as the toolkit calls it: it takes PIL images and returns boxes x,y,w,h.

    Boxes are in the coordinates of the data set's files. Those of OTB and UAV123 count pixels from
    1; for these `one_based` shifts boxes by 1 on the way in, and back on the way out. Those of
    GOT-10k count from 0.
    """

    def __init__(self, tracker: SiamFC, one_based: bool = False) -> None:
        super().__init__(tracker.name, is_deterministic=True)
        self.tracker = tracker
        self.shift = np.array([1.0, 1.0, 0.0, 0.0]) * one_based

    def init(self, image: Image, box: np.ndarray) -> None:
        """Learn the target in `box` of the first frame."""
        pixels = np.asarray(image.convert("RGB"))
        self.tracker.init(pixels, np.asarray(box, dtype=np.float64) - self.shift)

    def update(self, image: Image) -> np.ndarray:
        """Return the target's box in the next frame, `[4]` float64."""
        return self.tracker.update(np.asarray(image.convert("RGB"))).box + self.shift
