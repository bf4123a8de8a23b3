"""The metadata of ONNX files, as text by name: their `metadata_props`.

A tracker's two graphs and a classifier's one say what goes in and what comes out, and a tracker's
also the sizes, strides and constants of its search. `tools/onnx_runner.py` needs nothing else.
"""

from __future__ import annotations

import json
from typing import Any

from rbsf.datasets.images.published import CROP_SHARE
from rbsf.shipped import find_constants
from rbsf.tracker.anchor_free import (
    MOST_CORRECTION,
    POSITION_STRIDE,
    SHARES,
    SMALLEST,
    AnchorFreeConfig,
)
from rbsf.tracker.confidence import CONFIRMING, OFFSET, RATE, SLOPE
from rbsf.tracker.flags import read_constants
from rbsf.tracker.geometry import CONTEXT, EXEMPLAR_SIZE, SEARCH_SIZE, STRIDE
from rbsf.tracker.siamfc import SIZE_LIMITS, TrackerConfig

About = dict[str, str]

FORMAT = "rbsf-onnx-1"
PIXELS = {
    "format": FORMAT,
    "layout": "NCHW",
    "dtype": "float32",
    "color_order": "RGB",
    "value_range": "0 to 255; the network normalises by itself",
}
RESPONSE = (
    "scales",
    "scale_step",
    "scale_penalty",
    "scale_rate",
    "window_influence",
    "response_up",
)
HEAD = (*SHARES, "score_shift", "sure_score", "faint_score")
MAPS = (
    "maps [N, M, rows, columns]: 0 is the logit of the target; 1 to 4 are logs of the distances to"
    " its left, top, right and bottom side, in pixels of the search crop; 5, where there is one,"
    " is the logit that the target is in the crop at all"
)


def about_rbsf2() -> tuple[About, About]:
    """Metadata of RB-SF 2's backbone and head, with the default constants of its tracker."""
    limits = {"smallest_size": SMALLEST, "most_correction": MOST_CORRECTION}
    constants = _chosen(AnchorFreeConfig(), HEAD) | limits
    return _about_tracker("rbsf2", POSITION_STRIDE, constants, MAPS)


def about_response(model: str) -> tuple[About, About]:
    """Metadata of the backbone and head of a tracker of SiamFC's form, with published constants."""
    constants = _chosen(read_constants(find_constants("siamfc"), TrackerConfig), RESPONSE)
    constants |= {"size_limits": SIZE_LIMITS, "score_slope": SLOPE, "score_offset": OFFSET}
    constants |= {"score_rate": RATE, "score_confirming": CONFIRMING}
    response = "response [N, 1, rows, columns]: the template's products with each place, summed up"
    return _about_tracker(model, STRIDE, constants, response)


def _about_tracker(
    model: str, stride: int, constants: dict[str, Any], output: str
) -> tuple[About, About]:
    shared = PIXELS | {
        "model": model,
        "exemplar_size": str(EXEMPLAR_SIZE),
        "search_size": str(SEARCH_SIZE),
        "stride": str(stride),  # pixels of the search crop between neighbouring places
        "context": str(CONTEXT),
        "constants": json.dumps(constants),
    }
    backbone = {
        "part": "backbone",
        "input": "image [N, 3, S, S]: crops of exemplar_size or search_size pixels",
        "output": "features [N, C, h, w]",
    }
    head = {
        "part": "head",
        "input": "template [1, C, k, k]: features of the exemplar;"
        " features [N, C, h, w]: those of search crops",
        "output": output,
    }
    return shared | backbone, shared | head


def about_classifier(model: str, taken: dict[str, Any]) -> About:
    """Metadata of a classifier whose weights file describes its images by `taken`."""
    about = PIXELS | {
        "part": "classifier",
        "model": model,
        "input": "image [N, C, size, size]",
        "output": "logits [N, classes]",
        "size": str(taken["size"]),
        "mean": json.dumps(taken["mean"]),  # of pixels from 0 to 1; the graph subtracts it
        "std": json.dumps(taken["std"]),
        "classes": json.dumps(taken.get("classes", []), ensure_ascii=False),
    }
    if len(taken["mean"]) == 1:
        about["color_order"] = "gray"
    about["crop_share"] = str(
        taken.get("share", CROP_SHARE)
    )  # middle crop / short side of an image
    return about


def _chosen(constants: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(constants, name) for name in names}
