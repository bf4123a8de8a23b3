"""The RBCN core: binary convolutions, their training by Algorithm 1, and networks.

The core knows no data set and no tracker. `from rbsf import Tracker` is the one exception: it
loads `rbsf.tracker.opencv_style` when it is asked for.
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
