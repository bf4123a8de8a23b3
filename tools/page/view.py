"""What the page is told about a frame."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from rbsf.tools.page.footage import Footage
from rbsf.tools.page.lanes import Seen
from rbsf.tools.page.timeline import Timeline
from rbsf.tracker.follower import Response


def of_footage(footage: Footage, frame: int) -> dict[str, Any]:
    """The video, and a frame of it that was read."""
    return {
        "name": footage.name,
        "frame": frame,
        "count": footage.count,
        "fps": footage.fps,
        "live": footage.live,
        **footage.about[frame]._asdict(),
    }


def of_timeline(timeline: Timeline, frame: int, with_maps: bool) -> dict[str, Any]:
    """The targets, and what each tracker has found in a frame; with response maps if wanted."""
    return {
        "targets": sorted(timeline.keys),
        "reach": timeline.reach(),
        "undo": timeline.undoable,
        "lanes": [
            {
                "tracker": name,
                "milliseconds": lane.milliseconds.get(frame),
                "targets": [_found(*each, with_maps) for each in lane.at(frame).items()],
            }
            for name, lane in timeline.lanes.items()
        ],
    }


def _found(target: int, seen: Seen, with_map: bool) -> dict[str, Any]:
    """A target's result, for the page."""
    result = seen.result
    return {
        "target": target,
        "box": rounded(result.box),
        "score": round(float(result.score), 4),
        "state": result.state.value,
        "drawn": seen.drawn,
        "map": _heat(seen.response) if with_map and seen.response else None,
    }


def _heat(response: Response) -> dict[str, Any]:
    """A response as bytes from 0, its lowest, to 255, its highest value."""
    values = response.values.astype(np.float64)
    spread = max(float(values.max() - values.min()), 1e-12)
    levels = (255 * (values - values.min()) / spread).round().astype(np.uint8)
    rows, columns = levels.shape
    text = base64.b64encode(levels.tobytes()).decode()
    return {"box": rounded(response.box), "rows": rows, "columns": columns, "levels": text}


def rounded(box: np.ndarray) -> list[float]:
    """A box for the page: x, y, w, h rounded to hundredths of a pixel."""
    return [round(float(value), 2) for value in box]
