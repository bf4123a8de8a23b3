"""SiamFC tracking: find the first frame's target again in each following frame, on any backbone.

A backbone is a callable from uint8 RGB crops (N, S, S, 3) to float32 features (N, C, H, W), stride 8: a float network,
a 1-bit one in PyTorch or a packed one (``rbsf.tracker.backbones``). Bertinetto et al., 2016, with a template that also
remembers how the target has looked since, and a box that is fitted to it (`rbsf.tracker.box_regression`);
``configs/track/siamfc.yaml`` has the published constants, without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import cv2
import numpy as np
from numpy.lib.stride_tricks import as_strided

from rbsf.engine.correlate import correlate_signs
from rbsf.tracker.box_regression import BoxRegression, stretch
from rbsf.tracker.geometry import (
    EXEMPLAR_SIZE,
    SEARCH_SIZE,
    STRIDE,
    as_rgb,
    box_around,
    box_center,
    check_box,
    crop_square,
    exemplar_side,
    mean_color,
)

# Part of the name of a benchmark's results: raise it with each change, here, in geometry, box regression or the packed
# engine, by which the same weights and constants give other boxes, so that results from before are not taken for new.
TRACKER_VERSION = 1

Backbone = Callable[[np.ndarray], np.ndarray]
Correlation = Callable[[np.ndarray], np.ndarray]  # features (N, C, 22, 22) -> responses (N, 17, 17)

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
    """Constants of the search; all but those of memory and box are the published ones of SiamFC-3s."""

    scales: int = 3  # sizes tried per frame, odd
    scale_step: float = 1.0375  # factor between neighbouring sizes
    scale_penalty: float = 0.9745  # factor on the peak of a changed size
    window_influence: float = 0.176  # share of the cosine window in the final map
    scale_rate: float = 0.59  # share of the new size taken over per frame
    response_up: int = 16  # upsampling of the 17 x 17 response
    memory_share: float = 0.6  # share of the memory of later looks in the template, the rest is the first frame's
    memory_rate: float = 0.02  # share of a new frame's look in that memory
    box_share: float = 0.6  # share taken over of what the box regression says, of place, size and proportions
    box_rate: float = 0.15  # share of a new frame in the smoothed size and proportions that it says
    follow_rate: float = 0.0  # share of that size's change which the search follows per frame
    # A frame whose own score is below lost_score is not remembered, nor tells of the box.  The shipped RB-SF on 10,673
    # frames of training videos: of 1,084 frames without overlap 23 % are called lost; of 447 called lost 44 % overlap
    # at all and 1 % by more than a half.
    lost_score: float = 0.22  # smoothed score below which the target counts as lost
    found_score: float = 0.30  # ... and above which it counts as found again
    score_rate: float = 0.2  # share of a new frame in the smoothed score
    correlation: str = field(default="float", metadata={"choices": CORRELATIONS})  # of features, or of their signs

    def __post_init__(self) -> None:
        """Check every field; ValueError names the field, its value and what is valid."""
        if self.scales < 1 or self.scales % 2 == 0:
            raise ValueError(f"scales={self.scales}: give an odd number, such as 3")
        if self.scale_step <= 1:
            raise ValueError(f"scale_step={self.scale_step}: give a factor above 1, such as 1.0375")
        if self.response_up < 1:
            raise ValueError(f"response_up={self.response_up}: give a whole number from 1, such as 16")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a number from 0 to 1")
        if self.correlation not in CORRELATIONS:
            raise ValueError(f"correlation={self.correlation!r}: give one of {', '.join(CORRELATIONS)}")
        if not self.lost_score <= self.found_score:
            raise ValueError(f"found_score={self.found_score}: give at least lost_score={self.lost_score}")


@dataclass(frozen=True)
class Result:
    """Where the target is: ``box`` x,y,w,h, float64 pixels, 0-based, may reach outside the frame.

    ``score`` tells how much what was found is like the template and its surroundings are not: the response's peak
    above its mean, over the response of the first frame's template to itself. 1 = the same target on a
    background unlike it, 0 = nothing stands out. ``lost``: the score, smoothed over some frames, has fallen
    below ``TrackerConfig.lost_score`` and not risen above ``found_score`` since.
    """

    box: np.ndarray
    score: float
    lost: bool


class SiamFC:
    """Track one target: ``init`` on the first frame, then ``update`` on each next one."""

    def __init__(self, backbone: Backbone, config: TrackerConfig | None = None, name: str = "RB-SF") -> None:
        self.backbone = backbone
        self.config = config or TrackerConfig()
        self.name = name
        half = self.config.scales // 2
        self._steps = self.config.scale_step ** np.arange(-half, half + 1)
        self._weigh: Correlation | None = None  # with the template that chooses the size
        self._regression: BoxRegression | None = None

    def init(self, image: np.ndarray, box: Sequence[float] | np.ndarray) -> str | None:
        """Learn the target in ``box`` (x,y,w,h pixels, 0-based) of an H x W x 3 uint8 RGB image (gray, RGBA:
        converted).

        Returns a sentence if the box was clipped to the frame, else None. Raises ValueError for a box without
        area, not finite or outside the frame, and for an array that is no image.
        """
        image = as_rgb(image)
        height, width = image.shape[:2]
        box, note = check_box(box, width, height)
        self._frame = np.array([width, height])
        self._center, self._first_size, self._zoom = box_center(box), box[2:].copy(), 1.0
        self._fill = mean_color(image)
        crop = crop_square(image, self._center, exemplar_side(box[2:]), EXEMPLAR_SIZE, self._fill)
        self._first = self._memory = first = self.backbone(crop[None])[0]  # (C, 6, 6)
        self._weigh = self._place = self._correlation(first)
        self._self_response = first.size if self._by_signs else max(float(np.vdot(first, first)), 1e-12)
        self._smooth, self._lost = 1.0, False
        self._aside = np.zeros(2)  # where the regression sees the target: x, y in pixels off the search's centre
        self._misfit = np.zeros(2)  # its size and its proportions over the search's, as logs, smoothed
        if self.config.box_share or self.config.follow_rate:
            self._regression = BoxRegression(self.backbone, image, self._center, self._size, self._fill)
        return note

    def update(self, image: np.ndarray) -> Result:
        """Find the target in the next frame, an H x W x 3 uint8 RGB image (gray, RGBA: converted).

        A frame of another size than the one before is taken as the same view, rescaled. Raises RuntimeError
        before ``init``.
        """
        return self.locate(self.backbone(self.search_crops(image)))

    def search_crops(self, image: np.ndarray) -> np.ndarray:
        """First half of ``update``: a crop per size around the last place, uint8 (scales, 255, 255, 3)."""
        if self._weigh is None:
            raise RuntimeError("SiamFC.update was called before SiamFC.init: call init(image, box) on the first frame")
        image = as_rgb(image)
        self._follow_frame_size(image)
        side = exemplar_side(self._size) * SEARCH_SIZE / EXEMPLAR_SIZE
        return np.stack([crop_square(image, self._center, side * s, SEARCH_SIZE, self._fill) for s in self._steps])

    def locate(self, features: np.ndarray) -> Result:
        """Second half of ``update``: the target's place from the crops' features (scales, C, H, W)."""
        best, response = self._respond(features)
        offset = self._peak_offset(response)  # (x, y) in pixels of the search crop
        score = float(response.max() - response.mean()) / self._self_response
        found = score >= self.config.lost_score
        if self.config.memory_share and found:
            self._remember(look_at(features[best], offset, self._first.shape[-1]))
        crop_pixel = exemplar_side(self._size) * self._steps[best] / EXEMPLAR_SIZE  # image pixels per crop pixel
        self._center = np.clip(self._center + offset * crop_pixel, 0, self._frame - 1)
        rate = self.config.scale_rate
        zoom = self._zoom * (1 - rate + rate * self._steps[best])
        self._aside = np.zeros(2)
        if self._regression and found:
            misfit = self._misfit_at(features[best], offset)
            self._aside = misfit[:2] * crop_pixel
            self._misfit += self.config.box_rate * (misfit[2:] - self._misfit)
            zoom *= np.exp(self.config.follow_rate * misfit[2])
        self._zoom = float(np.clip(zoom, *SIZE_LIMITS))
        return Result(self.box, score, self._is_lost(score))

    def _respond(self, features: np.ndarray) -> tuple[int, np.ndarray]:
        """Which size fits best, by its number, and the response (17, 17) of its crop."""
        assert self._weigh is not None  # search_crops has checked it; this is for the type checker
        if len(features) == 1:
            return 0, self._place(features)[0]
        responses = self._weigh(features)
        best = self._best_scale(responses)
        fixed = self._place is self._weigh
        return best, responses[best] if fixed else self._place(features[best : best + 1])[0]

    def _misfit_at(self, features: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """What `BoxRegression` says at the peak, `offset` (x, y) pixels off the middle: place as seen from the peak."""
        assert self._regression is not None
        size = self._regression.cells
        reach = (features.shape[-1] - size) // 2
        cells = np.clip(np.round(offset / STRIDE).astype(int), -reach, reach)  # whole ones, as it was learned from
        column, row = cells + reach
        misfit = self._regression(features[:, row : row + size, column : column + size])
        misfit[:2] += cells * STRIDE - offset
        return misfit

    def _remember(self, look: np.ndarray) -> None:
        """Take features of the target, (C, 6, 6), into the memory.

        The size is chosen with half as much of it: as the size followed lags behind a target that grows or shrinks,
        so do the sizes in the memory, and with all of it they would hold the next ones back.
        """
        self._memory = self._memory + np.float32(self.config.memory_rate) * (look - self._memory)
        learned = np.float32(self.config.memory_share) * (self._memory - self._first)
        self._place = self._correlation(self._first + learned)
        self._weigh = self._correlation(self._first + learned / 2)

    def _correlation(self, template: np.ndarray) -> Correlation:
        return correlate_signs(template) if self._by_signs else partial(correlate, template)

    @property
    def _by_signs(self) -> bool:
        return self.config.correlation == "bits"

    @property
    def box(self) -> np.ndarray:
        """The target's box as last seen: x,y,w,h float64 pixels, after ``init`` the given one, clipped."""
        # The search itself goes on from the peak, at the first frame's proportions: but for follow_rate, what the
        # regression gets wrong spoils boxes and loses no target.
        share = self.config.box_share
        return box_around(self._center + share * self._aside, self._size * stretch(*(share * self._misfit)))

    @property
    def _size(self) -> np.ndarray:
        return self._first_size * self._zoom

    def _follow_frame_size(self, image: np.ndarray) -> None:
        frame = np.array([image.shape[1], image.shape[0]])
        if (frame != self._frame).any():
            ratio = frame / self._frame
            self._center = (self._center + 0.5) * ratio - 0.5  # pixel 0 reaches from -0.5 to 0.5
            self._first_size, self._aside, self._frame = self._first_size * ratio, self._aside * ratio, frame

    def _best_scale(self, responses: np.ndarray) -> int:
        peaks = responses.max(axis=(1, 2)).astype(np.float64)
        penalty = np.full(len(peaks), 1 - self.config.scale_penalty)
        penalty[len(peaks) // 2] = 0
        return int(np.argmax(peaks - penalty * np.abs(peaks)))  # abs: a change must not pay where peaks are negative

    def _peak_offset(self, response: np.ndarray) -> np.ndarray:
        up, share = self.config.response_up, np.float32(self.config.window_influence)
        rise = _upsampling(len(response), up)
        fine = rise @ (response @ rise.T)  # (272, 272)
        fine -= fine.min()
        window = share * (fine.sum() + np.float32(1e-16)) * _cosine_window(len(fine))  # response and window of one sum
        fine *= 1 - share
        fine += window
        row, column = divmod(int(fine.argmax()), len(fine))
        return (np.array([column, row]) - (len(fine) - 1) / 2) * STRIDE / up

    def _is_lost(self, score: float) -> bool:
        self._smooth += self.config.score_rate * (score - self._smooth)
        self._lost = self._smooth < (self.config.found_score if self._lost else self.config.lost_score)
        return self._lost


def update_all(trackers: Sequence[SiamFC], image: np.ndarray) -> list[Result]:
    """``update`` several trackers that share a backbone, with one pass of the network for all crops."""
    crops = [tracker.search_crops(image) for tracker in trackers]
    ends = np.cumsum([len(own) for own in crops])
    features = np.split(trackers[0].backbone(np.concatenate(crops)), ends[:-1])
    return [tracker.locate(own) for tracker, own in zip(trackers, features, strict=True)]


def look_at(features: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    """The (C, size, size) features of what lies `offset` (x, y) pixels off the middle of a crop, from the crop's own,
    (C, H, W), interpolated; nearer to the middle where they end.

    As the network pads nothing, these are the features of a smaller crop around that place, but for less than a stride.
    """
    last = features.shape[-1] - size
    x, y = np.clip(offset / STRIDE + last / 2, 0, last)
    column, row = (min(int(start), last - 1) for start in (x, y))
    right, down = np.float32(x - column), np.float32(y - row)
    part = features[:, row : row + size + 1, column : column + size + 1]
    part = part[:, :-1] + down * (part[:, 1:] - part[:, :-1])
    return part[..., :-1] + right * (part[..., 1:] - part[..., :-1])


def correlate(template: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Cross-correlate a (C, K, K) template with (N, C, H, W) features: (N, H - K + 1, W - K + 1), float32.

    One matrix product for all pairs of a template cell and a place, then a shifted sum: 30 times faster than
    windows.
    """
    (channels, k, _), (n, _, height, width) = template.shape, features.shape
    products = template.reshape(channels, k * k).T @ features.reshape(n, channels, height * width)
    image, cell, place = products.strides
    rows, columns = height - k + 1, width - k + 1
    shifted = as_strided(  # (n, k, k, rows, columns): what each template cell says about each place
        products,
        (n, k, k, rows, columns),
        (image, k * cell + width * place, cell + place, width * place, place),
        writeable=False,
    )
    return shifted.sum((1, 2))


@cache
def _upsampling(size: int, up: int) -> np.ndarray:
    """Matrix (size * up, size) of OpenCV's bicubic interpolation along one axis, float32."""
    return cv2.resize(np.eye(size, dtype=np.float32), (size, size * up), interpolation=cv2.INTER_CUBIC)


@cache
def _cosine_window(size: int) -> np.ndarray:
    window = np.outer(np.hanning(size), np.hanning(size))
    return (window / window.sum()).astype(np.float32)
