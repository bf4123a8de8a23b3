"""The RBCN core: binary convolutions, their training by Algorithm 1, networks. Knows no dataset, no
tracker.

``from rbsf import Tracker`` is the one exception, see `rbsf.tracker.opencv_style`; it is loaded
when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbsf.tracker.opencv_style import Tracker

__all__ = ["Tracker"]


def __getattr__(name: str) -> Any:
    """Load `Tracker` when it is first asked for."""
    if name != "Tracker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rbsf.tracker.opencv_style import Tracker

    return Tracker
