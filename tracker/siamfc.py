"""SiamFC tracking: finds the first frame's target in each following frame, with any backbone.

A backbone is a callable from uint8 RGB crops `[N, S, S, 3]` to float32 features `[N, C, H, W]` of
stride 8: a float network, a 1-bit one in PyTorch or a packed one (`rbsf.tracker.backbones`).

The search is that of Bertinetto et al., 2016, with two additions: the template also remembers later
looks of the target, and the box is fitted to the target (`rbsf.tracker.box_regression`). With the
published constants, `configs/track/siamfc.yaml`, both are off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from rbsf.tracker.box_regression import BoxOffset, BoxRegression, stretch
from rbsf.tracker.confidence import Confidence
from rbsf.tracker.follower import Follower, Sighting
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, STRIDE, box_around, exemplar_side
from rbsf.tracker.states import Result, StateConfig, check_shares
from rbsf.tracker.target import Target
from rbsf.tracker.template import Template, look_at

Backbone = Callable[[np.ndarray], np.ndarray]

CORRELATIONS = ("float", "bits")
SHARES = (  # fields that are numbers from 0 to 1
    "scale_penalty",
    "window_influence",
    "scale_rate",
    "memory_share",
    "memory_rate",
    "box_share",
    "box_rate",
    "follow_rate",
)
MOST_SCALES, MOST_STEP, MOST_UP = 31, 2.0, 64  # of `TrackerConfig`
SIZE_LIMITS = (0.2, 5.0)  # smallest and largest size of the target, in sizes of the first frame


@dataclass(frozen=True)
class TrackerConfig(StateConfig):
    """Constants of the search.

    All except those of memory, box and `StateConfig` are the published constants of SiamFC-3s.
    """

    scales: int = 3  # sizes tried per frame, odd
    scale_step: float = 1.0375  # factor between neighbouring sizes
    scale_penalty: float = 0.9745  # factor on the peak of a changed size
    window_influence: float = 0.176  # share of the cosine window in the final map
    scale_rate: float = 0.59  # weight of the new size in each frame
    response_up: int = 16  # upsampling factor of the 17 x 17 response
    memory_share: float = 0.6  # share of later looks in the template; the rest is the first look
    memory_rate: float = 0.02  # weight of a new frame's look in that memory
    box_share: float = 0.6  # share of the box regression's offset that is applied to the box
    box_rate: float = 0.15  # weight of a new frame in the smoothed size and proportions of the box
    follow_rate: float = 0.0  # share of the regression's size change that the search follows
    # Correlate features, or their signs.
    correlation: str = field(default="float", metadata={"choices": CORRELATIONS})

    def __post_init__(self) -> None:
        """Raise ValueError if a field is wrong; it names field, value and what is valid."""
        super().__post_init__()
        if self.scales < 1 or self.scales % 2 == 0:
            raise ValueError(f"scales={self.scales}: give an odd number, such as 3")
        if self.scales > MOST_SCALES:
            raise ValueError(f"scales={self.scales}: give at most {MOST_SCALES}")
        if not 1 < self.scale_step <= MOST_STEP:
            raise ValueError(
                f"scale_step={self.scale_step}: give a factor above 1, at most {MOST_STEP:g},"
                " such as 1.0375"
            )
        if not 1 <= self.response_up <= MOST_UP:
            raise ValueError(
                f"response_up={self.response_up}: give a whole number from 1 to {MOST_UP},"
                " such as 16"
            )
        check_shares(self, SHARES)
        if self.correlation not in CORRELATIONS:
            raise ValueError(
                f"correlation={self.correlation!r}: give one of {', '.join(CORRELATIONS)}"
            )


@dataclass
class _Model:
    """The learned model of the target."""

    first_size: np.ndarray  # (w, h) pixels; the target's size is this times `zoom`
    template: Template
    confidence: Confidence
    regression: BoxRegression | None
    zoom: float = 1.0  # size relative to the first frame
    # (x, y) pixels from the search's centre to the box's centre.
    aside: np.ndarray = field(default_factory=lambda: np.zeros(2))
    # The box's size and proportions, see `BoxOffset.change`.
    change: np.ndarray = field(default_factory=lambda: np.zeros(2))


class _Match(NamedTuple):
    """The best of the crops around a place."""

    features: np.ndarray  # [C, H, W]
    step: float  # size of this crop relative to the target's
    offset: np.ndarray  # (x, y) of the response's peak, pixels from the crop's middle
    look: np.ndarray  # [C, 6, 6], features at the peak


class SiamFC(Follower):
    """Follow one target by correlating a template with the features of search crops."""

    name = "RB-SF"

    def __init__(self, backbone: Backbone, config: TrackerConfig | None = None) -> None:
        if not callable(backbone):
            raise ValueError("this network gives boxes, no features; give it to AnchorFree")
        self.backbone = backbone
        self.config = config or TrackerConfig()
        if not isinstance(self.config, TrackerConfig):
            raise ValueError(f"constants are a {type(config).__name__}; give TrackerConfig")
        half = self.config.scales // 2
        self._steps = self.config.scale_step ** np.arange(-half, half + 1)
        self._model: _Model | None = None

    @staticmethod
    def update_all(trackers: Sequence[SiamFC], image: np.ndarray) -> list[Result]:  # type: ignore[override]
        """Update trackers that share a backbone, with one backbone pass for all crops."""
        crops = [tracker.search_crops(image) for tracker in trackers]
        ends = np.cumsum([len(own) for own in crops])
        features = np.split(trackers[0].backbone(np.concatenate(crops)), ends[:-1])
        return [tracker.locate(own) for tracker, own in zip(trackers, features, strict=True)]

    def _learn(self, image: np.ndarray, target: Target) -> None:
        config = self.config
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
        self._model = _Model(target.size, template, Confidence(first), regression)

    def _crops(self, image: np.ndarray) -> list[np.ndarray]:
        target = self._target
        side = exemplar_side(target.size) * SEARCH_SIZE / EXEMPLAR_SIZE
        return [target.crop(image, side * step, SEARCH_SIZE) for step in self._steps]

    def _answers(self, crops: np.ndarray) -> np.ndarray:
        return self.backbone(crops)

    def _look(self, answers: Sequence[np.ndarray], anywhere: bool) -> Sighting:
        model = self._learned
        features = np.asarray(answers)  # [N, C, H, W]
        best, response = self._respond(model.template, features)
        offset = self._peak_offset(response, 0.0 if anywhere else self.config.window_influence)
        step = 1.0 if len(features) == 1 else float(self._steps[best])
        look = look_at(features[best], offset, model.template.first.shape[-1])
        score = model.confidence.judge(look)
        pixel = self._side * step  # size of a crop pixel in image pixels
        match = _Match(features[best], step, offset, look)
        return Sighting(offset * pixel, score, match, response, STRIDE * pixel)

    def _take(self, seen: Sighting, learn: bool) -> None:
        model, config, match = self._learned, self.config, seen.detail
        self._target.move(seen.offset)
        model.aside = np.zeros(2)
        if not learn:
            return
        model.confidence.learn(match.look)
        if not model.template.fixed:
            model.template.remember(match.look)
        zoom = model.zoom * (1 - config.scale_rate + config.scale_rate * match.step)
        if model.regression:
            found = offset_at_peak(model.regression, match.features, match.offset)
            model.aside = found.shift * self._side * match.step
            model.change = model.change + config.box_rate * (found.change - model.change)
            zoom *= np.exp(config.follow_rate * found.size)
        model.zoom = float(np.clip(zoom, *SIZE_LIMITS))
        self._target.size = model.first_size * model.zoom

    def _own_box(self) -> np.ndarray:
        # The search continues from the peak, at the first frame's proportions. So an error of the
        # regression spoils a box but does not lose the target, unless follow_rate is above 0.
        model, share = self._learned, self.config.box_share
        size = self._target.size * stretch(*(share * model.change))
        return box_around(self._target.center + share * model.aside, size)

    def _rescale(self, ratio: np.ndarray) -> None:
        model = self._learned
        model.first_size = model.first_size * ratio
        model.aside = model.aside * ratio
        self._target.size = model.first_size * model.zoom

    @property
    def _learned(self) -> _Model:
        assert self._model is not None  # `update` has already checked `_known`
        return self._model

    def _respond(self, template: Template, features: np.ndarray) -> tuple[int, np.ndarray]:
        """Index of the best size, and the response `[17, 17]` of its crop."""
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
        # Without abs a change of size would be preferred if peaks are negative.
        return int(np.argmax(peaks - penalty * np.abs(peaks)))

    def _peak_offset(self, response: np.ndarray, window_share: float) -> np.ndarray:
        up, share = self.config.response_up, np.float32(window_share)
        rise = _upsampling(len(response), up)
        fine = rise @ (response @ rise.T)  # [272, 272]
        fine -= fine.min()
        total = fine.sum() + np.float32(1e-16)
        window = share * total * _cosine_window(len(fine))  # same sum as the response
        fine *= 1 - share
        fine += window
        row, column = divmod(int(fine.argmax()), len(fine))
        return (np.array([column, row]) - (len(fine) - 1) / 2) * STRIDE / up


def offset_at_peak(regression: BoxRegression, features: np.ndarray, peak: np.ndarray) -> BoxOffset:
    """The offset that `regression` finds for the box around a response's peak, from the peak.

    `features`: `[C, H, W]` of a search region. `peak`: (x, y) pixels from its middle.
    """
    size = regression.cells
    reach = (features.shape[-1] - size) // 2
    # Whole cells, since the regression was trained on features that are not interpolated.
    cells = np.clip(np.round(peak / STRIDE).astype(int), -reach, reach)
    column, row = cells + reach
    seen = regression(features[:, row : row + size, column : column + size])
    x, y = seen.shift + (cells * STRIDE - peak)
    return seen._replace(x=x, y=y)


@cache
def _upsampling(size: int, up: int) -> np.ndarray:
    """Matrix `[size * up, size]` of OpenCV's bicubic interpolation along one axis, float32."""
    identity = np.eye(size, dtype=np.float32)
    return cv2.resize(identity, (size, size * up), interpolation=cv2.INTER_CUBIC)


@cache
def _cosine_window(size: int) -> np.ndarray:
    window = np.outer(np.hanning(size), np.hanning(size))
    return (window / window.sum()).astype(np.float32)
