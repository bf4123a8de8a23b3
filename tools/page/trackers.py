"""The trackers that a viewer may choose."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rbsf.shipped import shipped_trackers
from rbsf.tracker.backbones import is_packed

DEFAULT = "rbsf"
MOST_TRACKERS = 3  # that a viewer may have at once
TITLES = {"rbsf": "RB-SF", "rbsf2": "RB-SF 2", "siamfc": "SiamFC, float"}  # others go by their name


@cache
def offered() -> dict[str, Path]:
    """The shipped trackers that run here, by name; those that are not packed need PyTorch."""
    has_torch = find_spec("torch") is not None
    found = shipped_trackers().items()
    return {name: path for name, path in found if has_torch or is_packed(path)}


def described() -> list[dict[str, str]]:
    """Name and title of each, for the page."""
    return [{"name": name, "title": TITLES.get(name, name)} for name in offered()]
