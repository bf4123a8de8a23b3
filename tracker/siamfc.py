"""SiamFC tracking: find the first frame's target again in each following frame, on any backbone.

A backbone is a callable from uint8 RGB crops `[N, S, S, 3]` to float32 features `[N, C, H, W]` of
stride 8: a float network, a 1-bit one in PyTorch or a packed one (`rbsf.tracker.backbones`).

The search is that of Bertinetto et al., 2016. Added are a template that also remembers how the
target has looked since, and a box that is fitted to the target (`rbsf.tracker.box_regression`).
With the published constants, `configs/track/siamfc.yaml`, both are off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

from rbsf.tracker.box_regression import BoxOffset, BoxRegression, stretch
from rbsf.tracker.geometry import (
    EXEMPLAR_SIZE,
    SEARCH_SIZE,
    STRIDE,
    as_rgb,
    box_around,
    exemplar_side,
)
from rbsf.tracker.loss_monitor import LossMonitor
from rbsf.tracker.target import Target
from rbsf.tracker.template import Template, look_at

# A part of the name of a benchmark's results. Raise it with each change, here, in geometry, box
# regression or the packed engine, after which the same weights and constants give other boxes. Then
# earlier results are not taken for new ones.
TRACKER_VERSION = 1

Backbone = Callable[[np.ndarray], np.ndarray]

CORRELATIONS = ("float", "bits")
SHARES = (  # fields that are numbers from 0 to 1
    "scale_penalty",
    "window_influence",
    "scale_rate",
    "score_rate",
    "memory_share",
    "memory_rate",
    "box_share",
    "box_rate",
    "follow_rate",
)
SIZE_LIMITS = (0.2, 5.0)  # smallest and largest size of the target, in sizes of the first frame


@dataclass(frozen=True)
class TrackerConfig:
    """Constants of the search.

    All but those of memory and box are the published ones of SiamFC-3s.
    """

    scales: int = 3  # sizes tried per frame, odd
    scale_step: float = 1.0375  # factor between neighbouring sizes
    scale_penalty: float = 0.9745  # factor on the peak of a changed size
    window_influence: float = 0.176  # share of the cosine window in the final map
    scale_rate: float = 0.59  # share of the new size taken over per frame
    response_up: int = 16  # upsampling of the 17 x 17 response
    memory_share: float = 0.6  # share of later looks in the template; the rest is the first look
    memory_rate: float = 0.02  # share of a new frame's look in that memory
    box_share: float = 0.6  # share of the box regression's place, size and proportions taken over
    box_rate: float = 0.15  # share of a new frame in the smoothed size and proportions of the box
    follow_rate: float = 0.0  # share of that size's change which the search follows per frame
    # A frame whose own score is below lost_score is neither remembered nor used for the box. With
    # the shipped RB-SF on 10,673 frames of training videos, of 1,084 frames without overlap 23 %
    # are called lost; of 447 frames called lost 44 % overlap at all and 1 % by more than a half.
    lost_score: float = 0.22  # smoothed score below which the target counts as lost
    found_score: float = 0.30  # smoothed score from which a lost target counts as found again
    score_rate: float = 0.2  # share of a new frame in the smoothed score
    # What is correlated: features, or their signs.
    correlation: str = field(default="float", metadata={"choices": CORRELATIONS})

    def __post_init__(self) -> None:
        """Raise ValueError where a field is wrong; it names field, value and what is valid."""
        if self.scales < 1 or self.scales % 2 == 0:
            raise ValueError(f"scales={self.scales}: give an odd number, such as 3")
        if self.scale_step <= 1:
            raise ValueError(f"scale_step={self.scale_step}: give a factor above 1, such as 1.0375")
        if self.response_up < 1:
            raise ValueError(
                f"response_up={self.response_up}: give a whole number from 1, such as 16"
            )
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a number from 0 to 1")
        if self.correlation not in CORRELATIONS:
            raise ValueError(
                f"correlation={self.correlation!r}: give one of {', '.join(CORRELATIONS)}"
            )
        if not self.lost_score <= self.found_score:
            raise ValueError(
                f"found_score={self.found_score}: give at least lost_score={self.lost_score}"
            )


@dataclass(frozen=True)
class Result:
    """Where the target is.

    `box`: x,y,w,h, float64 pixels, 0-based; it may reach outside the frame.

    `score`: how much the place found is like the template, and its surroundings are not. It is the
    response's peak above its mean, over the response of the first frame's template to itself. 1
    means the same target on a background unlike it, 0 that nothing stands out.

    `lost`: the score, smoothed over some frames, has fallen below `TrackerConfig.lost_score` and
    not risen to `found_score` since.
    """

    box: np.ndarray
    score: float
    lost: bool


@dataclass
class _Track:
    """What is known of the target that is followed."""

    target: Target
    first_size: np.ndarray  # (w, h) pixels; `target.size` is this times `zoom`
    template: Template
    monitor: LossMonitor
    regression: BoxRegression | None
    zoom: float = 1.0  # size over the first frame's
    # (x, y) pixels from the search's centre to the box's.
    aside: np.ndarray = field(default_factory=lambda: np.zeros(2))
    # The box's size and proportions, see `BoxOffset.change`.
    change: np.ndarray = field(default_factory=lambda: np.zeros(2))


class SiamFC:
    """Track one target: `init` on the first frame, then `update` on each next one."""

    def __init__(
        self, backbone: Backbone, config: TrackerConfig | None = None, name: str = "RB-SF"
    ) -> None:
        self.backbone = backbone
        self.config = config or TrackerConfig()
        self.name = name
        half = self.config.scales // 2
        self._steps = self.config.scale_step ** np.arange(-half, half + 1)
        self._state: _Track | None = None

    def init(self, image: np.ndarray, box: Sequence[float] | np.ndarray) -> str | None:
        """Learn the target in `box` (x,y,w,h pixels, 0-based) of an RGB image.

        The image is `[H, W, 3]` uint8; gray and RGBA are converted. Returns a sentence if the box
        was clipped to the frame, else None. Raises ValueError for a box without area, not finite or
        outside the frame, and for an array that is no image.
        """
        image, config = as_rgb(image), self.config
        target, note = Target.of(image, box)
        crop = target.crop(image, exemplar_side(target.size), EXEMPLAR_SIZE)
        first = self.backbone(crop[None])[0]  # [C, 6, 6]
        regression = None
        if config.box_share or config.follow_rate:
            regression = BoxRegression(
                self.backbone, image, target.center, target.size, target.fill
            )
        template = Template(
            first, config.correlation == "bits", config.memory_share, config.memory_rate
        )
        monitor = LossMonitor(config.lost_score, config.found_score, config.score_rate)
        self._state = _Track(target, target.size, template, monitor, regression)
        return note

    def update(self, image: np.ndarray) -> Result:
        """Find the target in the next frame, `[H, W, 3]` uint8 RGB; gray and RGBA are converted.

        A frame of another size than the one before is taken as the same view, rescaled. Raises
        RuntimeError before `init`, ValueError for an array that is no image.
        """
        return self.locate(self.backbone(self.search_crops(image)))

    def search_crops(self, image: np.ndarray) -> np.ndarray:
        """First half of `update`: a crop of each size around the last place.

        Returns `[scales, 255, 255, 3]` uint8.
        """
        image, track = as_rgb(image), self._track
        self._follow_frame(track, image)
        side = exemplar_side(track.target.size) * SEARCH_SIZE / EXEMPLAR_SIZE
        return np.stack(
            [track.target.crop(image, side * step, SEARCH_SIZE) for step in self._steps]
        )

    def locate(self, features: np.ndarray) -> Result:
        """Second half of `update`: the target from the crops' features `[scales, C, H, W]`."""
        track, config = self._track, self.config
        best, response = self._respond(track.template, features)
        offset = self._peak_offset(response)  # (x, y) in pixels of the search crop
        score = float(response.max() - response.mean()) / track.template.self_response
        found = score >= config.lost_score
        if found and not track.template.fixed:
            track.template.remember(look_at(features[best], offset, track.template.first.shape[-1]))
        step = self._steps[best]
        side = exemplar_side(track.target.size)
        crop_pixel = side * step / EXEMPLAR_SIZE  # image pixels per crop pixel
        track.target.move(offset * crop_pixel)
        zoom = track.zoom * (1 - config.scale_rate + config.scale_rate * step)
        track.aside = np.zeros(2)
        if track.regression and found:
            seen = offset_at_peak(track.regression, features[best], offset)
            track.aside = seen.shift * crop_pixel
            track.change = track.change + config.box_rate * (seen.change - track.change)
            zoom *= np.exp(config.follow_rate * seen.size)
        track.zoom = float(np.clip(zoom, *SIZE_LIMITS))
        track.target.size = track.first_size * track.zoom
        return Result(self.box, score, track.monitor.update(score))

    @property
    def box(self) -> np.ndarray:
        """The target's last box: x,y,w,h float64 pixels; after `init` the given one, clipped."""
        # The search goes on from the peak, at the first frame's proportions. So a mistake of the
        # regression spoils a box but loses no target, unless follow_rate lets the search follow it.
        track, share = self._track, self.config.box_share
        size = track.target.size * stretch(*(share * track.change))
        return box_around(track.target.center + share * track.aside, size)

    @property
    def _track(self) -> _Track:
        if self._state is None:
            raise RuntimeError(
                "SiamFC.update was called before SiamFC.init:"
                " call init(image, box) on the first frame"
            )
        return self._state

    def _follow_frame(self, track: _Track, image: np.ndarray) -> None:
        ratio = track.target.follow_frame(image)
        if ratio is not None:
            track.first_size = track.first_size * ratio
            track.aside = track.aside * ratio
            track.target.size = track.first_size * track.zoom

    def _respond(self, template: Template, features: np.ndarray) -> tuple[int, np.ndarray]:
        """Number of the size that fits best, and the response `[17, 17]` of its crop."""
        if len(features) == 1:
            return 0, template.place(features)[0]
        responses = template.weigh(features)
        best = self._best_scale(responses)
        if template.fixed:
            return best, responses[best]
        return best, template.place(features[best : best + 1])[0]

    def _best_scale(self, responses: np.ndarray) -> int:
        peaks = responses.max(axis=(1, 2)).astype(np.float64)
        penalty = np.full(len(peaks), 1 - self.config.scale_penalty)
        penalty[len(peaks) // 2] = 0
        # Without abs a change of size would gain where peaks are negative.
        return int(np.argmax(peaks - penalty * np.abs(peaks)))

    def _peak_offset(self, response: np.ndarray) -> np.ndarray:
        up = self.config.response_up
        share = np.float32(self.config.window_influence)
        rise = _upsampling(len(response), up)
        fine = rise @ (response @ rise.T)  # [272, 272]
        fine -= fine.min()
        total = fine.sum() + np.float32(1e-16)
        window = share * total * _cosine_window(len(fine))  # its sum is that of the response
        fine *= 1 - share
        fine += window
        row, column = divmod(int(fine.argmax()), len(fine))
        return (np.array([column, row]) - (len(fine) - 1) / 2) * STRIDE / up


def offset_at_peak(regression: BoxRegression, features: np.ndarray, peak: np.ndarray) -> BoxOffset:
    """What `regression` says of the box around a response's peak, as seen from the peak.

    `features`: `[C, H, W]` of a search region. `peak`: (x, y) pixels from its middle.
    """
    size = regression.cells
    reach = (features.shape[-1] - size) // 2
    # Whole cells, since the regression has learned from features that are not interpolated.
    cells = np.clip(np.round(peak / STRIDE).astype(int), -reach, reach)
    column, row = cells + reach
    seen = regression(features[:, row : row + size, column : column + size])
    x, y = seen.shift + (cells * STRIDE - peak)
    return seen._replace(x=x, y=y)


def update_all(trackers: Sequence[SiamFC], image: np.ndarray) -> list[Result]:
    """Update several trackers that share a backbone, with one pass of it for all crops."""
    crops = [tracker.search_crops(image) for tracker in trackers]
    ends = np.cumsum([len(own) for own in crops])
    features = np.split(trackers[0].backbone(np.concatenate(crops)), ends[:-1])
    return [tracker.locate(own) for tracker, own in zip(trackers, features, strict=True)]


@cache
def _upsampling(size: int, up: int) -> np.ndarray:
    """Matrix `[size * up, size]` of OpenCV's bicubic interpolation along one axis, float32."""
    identity = np.eye(size, dtype=np.float32)
    return cv2.resize(identity, (size, size * up), interpolation=cv2.INTER_CUBIC)


@cache
def _cosine_window(size: int) -> np.ndarray:
    window = np.outer(np.hanning(size), np.hanning(size))
    return (window / window.sum()).astype(np.float32)
