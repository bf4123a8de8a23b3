"""Codecs for writing videos, in the order in which they are tried."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FPS = 60_000  # frames a second that a video is written at; a header's higher rate is ignored


@dataclass(frozen=True)
class Codec:
    """A way to encode video."""

    name: str  # the common name
    encoder: str  # FFmpeg's name for it, or OpenCV's four letters
    by_pyav: bool  # True: PyAV encodes, False: OpenCV does
    plays: bool = True  # browsers play it

    @property
    def keeps_aspect(self) -> bool:
        """Whether a file can tell players that its pixels are not square."""
        return self.by_pyav and self.name not in ("VP8", "VP9")

    def describe(self) -> str:
        """Its name, and what to do if browsers do not play it."""
        if self.plays:
            return self.name
        advice = "an .mp4 is H.264 with pip install 'rbsf[video]'"
        return f"{self.name}, which browsers do not play; {advice}"


H264 = [
    Codec("H.264", encoder, by_pyav=True)
    for encoder in ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")
]
H264.append(Codec("H.264", "avc1", by_pyav=False))
# OpenCV's VP9 takes six times as long as its VP8, and ignores settings.
WEBM = [
    Codec("VP9", "libvpx-vp9", by_pyav=True),
    Codec("VP8", "libvpx", by_pyav=True),
    Codec("VP8", "VP80", by_pyav=False),
    Codec("VP9", "VP90", by_pyav=False),
]
MPEG4 = Codec("MPEG-4 Part 2", "mp4v", by_pyav=False, plays=False)  # every OpenCV has it
MODERN = [*H264, Codec("MPEG-4 Part 2", "mpeg4", by_pyav=True, plays=False), MPEG4]
CODECS = {".mp4": MODERN, ".mov": MODERN, ".mkv": MODERN, ".webm": WEBM, ".avi": [MPEG4]}
