"""Run one of our trackers in the got10k toolkit (`got10k.experiments`)."""

from __future__ import annotations

import numpy as np
from got10k.trackers import Tracker
from PIL.Image import Image

from rbsf.tracker.follower import Follower


class GOT10kTracker(Tracker):
    """A tracker in the form that the toolkit needs: PIL images in, boxes x,y,w,h out.

    Boxes are in the coordinates of the data set's files. OTB and UAV123 count pixels from 1; for
    these `one_based` shifts incoming boxes by 1 and shifts results back. GOT-10k counts from 0.
    """

    def __init__(self, tracker: Follower, one_based: bool = False) -> None:
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
