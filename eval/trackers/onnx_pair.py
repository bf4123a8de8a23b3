"""Published trackers of two ONNX graphs, run by ONNX Runtime, such as NanoTrack."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

from rbsf.eval.trackers.spec import TrackerSpec, check_files, split_files
from rbsf.system.program import install_advice
from rbsf.tracker.anchor_free import AS_PUBLISHED, AnchorFree, AnchorFreeConfig
from rbsf.tracker.follower import TRACKER_VERSION

PREFIX = "onnx:"


class PairSpec(TrackerSpec):
    """`onnx:BACKBONE,HEAD`, see `rbsf.tracker.onnx_pair`."""

    FORMS: ClassVar[tuple[str, ...]] = (f"{PREFIX}BACKBONE,HEAD",)

    @classmethod
    def read(cls, what: str, label: str) -> PairSpec | None:
        """See `Kind`."""
        if not what.startswith(PREFIX):
            return None
        files = split_files(what.removeprefix(PREFIX))
        if len(files) != 2:
            raise ValueError(f"--tracker {what!r}: give two files, onnx:BACKBONE.onnx,HEAD.onnx")
        if find_spec("onnxruntime") is None:
            raise ValueError(f"--tracker {what!r}: needs ONNX Runtime; {install_advice('onnx')}")
        check_files(files, what)
        return cls(label or files[0].stem, files)

    @property
    def name(self) -> str:
        """See `TrackerSpec`."""
        return self.files[0].stem

    @property
    def decisive(self) -> str:
        """See `TrackerSpec`."""
        return f"{AS_PUBLISHED} {AnchorFreeConfig()} {TRACKER_VERSION}"

    def load(self, threads: int) -> AnchorFree:
        """See `TrackerSpec`."""
        from rbsf.tracker.onnx_pair import open_pair

        backbone, head = self.files
        network = open_pair(backbone, head, threads)
        return AnchorFree(network, network.constants)
