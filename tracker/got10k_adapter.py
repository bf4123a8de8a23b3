"""Run a SiamFC tracker in the got10k toolkit (`got10k.experiments`)."""

from __future__ import annotations

import numpy as np
from got10k.trackers import Tracker
from PIL.Image import Image

from rbsf.tracker.siamfc import SiamFC


class GOT10kTracker(Tracker):
    """A `SiamFC` as the toolkit wants it: PIL images in, boxes x,y,w,h in the coordinates of the
    files out.

    The toolkit hands out boxes as the data set's files hold them. Those of OTB and UAV123 count
    pixels from 1 (`one_based=True`: shifted by 1 on the way in and back on the way out), those of
    GOT-10k from 0.
    """

    def __init__(self, tracker: SiamFC, one_based: bool = False) -> None:
        super().__init__(tracker.name, is_deterministic=True)
        self.tracker = tracker
        self.shift = np.array([1.0, 1.0, 0.0, 0.0]) * one_based

    def init(self, image: Image, box: np.ndarray) -> None:
        """Learn the target in `box` of the first frame."""
        self.tracker.init(
            np.asarray(image.convert("RGB")), np.asarray(box, dtype=np.float64) - self.shift
        )

    def update(self, image: Image) -> np.ndarray:
        """Return the target's box in the next frame, float64 (4,)."""
        return self.tracker.update(np.asarray(image.convert("RGB"))).box + self.shift
