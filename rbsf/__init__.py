"""The RBCN core: binary convolutions, their training by Algorithm 1, and networks.

The core does not depend on any data set or tracker. `from rbsf import Tracker` is the one
exception: it loads `rbsf.tracker.opencv_style` on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbsf.tracker.opencv_style import Tracker

__all__ = ["Tracker"]


def __getattr__(name: str) -> Any:
    """Load `Tracker` on first use."""
    if name != "Tracker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rbsf.tracker.opencv_style import Tracker

    return Tracker
