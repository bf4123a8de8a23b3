"""Encode video with PyAV: true times, the pixels' shape, and the sound of the source file."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  (before av: in the other order, OpenCV's windows hang on Linux)
import numpy as np

from rbsf.datasets.video.codecs import Codec

TICK = Fraction(1, 90_000)  # seconds; the unit of times
# With these, an .mp4 of an interrupted run or on a full disk plays up to its last second.
FRAGMENTS = {
    "movflags": "+hybrid_fragmented+delay_moov",
    "frag_duration": "1000000",
}
FLUSHED = {"flush_packets": "1"}  # so that a full disk is reported at once
OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "20", "bf": "0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "4M"},
    "mpeg4": {"qscale": "4", "flags": "+qscale", "global_quality": "472"},
}
BT601, LIMITED = 6, 1  # FFmpeg's numbers for a colour matrix and a colour range


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn FFmpeg's errors in this context into OSErrors, with their number and text."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


class PyavEncoder:
    """Writes pictures of one size, (width, height), to a file.

    `sound_of`: a file whose sound is copied, from `begin` (seconds after its first frame) to the
    end of the last written frame. Raises OSError if writing fails.
    """

    @_as_os_error()
    def __init__(
        self,
        path: Path,
        codec: Codec,
        size: tuple[int, int],
        fps: float,
        aspect: Fraction = Fraction(1),
        sound_of: Path | None = None,
        begin: float = 0.0,
    ) -> None:
        self.written = 0
        self._step = max(round(1 / fps / TICK), 1)  # ticks from a frame to the next
        self._last = -1  # time of the last frame, in ticks
        fragments = FRAGMENTS if path.suffix.lower() in (".mp4", ".mov") else {}
        self._file = _create(path, {**FLUSHED, **fragments})
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._file.add_stream(
            codec.encoder, rate=rate or 1, options=OPTIONS.get(codec.encoder, {})
        )
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = TICK
        context.sample_aspect_ratio = aspect
        context.colorspace, context.color_range = BT601, LIMITED
        self._sound = Sound(sound_of, self._file, begin) if sound_of else None

    @property
    def left_out(self) -> str:
        """A sentence on sound that is not copied, or empty."""
        return self._sound.left_out if self._sound else ""

    @_as_os_error()
    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append a frame, `[H, W, 3]` uint8 RGB, `seconds` after the first one."""
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        self._last = max(round(seconds / TICK), self._last + 1)
        frame.pts, frame.time_base = self._last, TICK
        self._mux(self._stream.encode(frame))
        self.written += 1
        if self._sound:
            self._sound.copy_until(float(self._last * TICK))

    @_as_os_error()
    def close(self) -> None:
        """Finish the file."""
        try:
            self._mux(self._stream.encode())
            if self._sound:
                self._sound.copy_until(float((self._last + self._step) * TICK))
        finally:
            if self._sound:
                self._sound.close()
            self._file.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._step  # only the last frame's counts
            self._file.mux(packet)


class Sound:
    """Sound that is copied from a video file to another, without encoding it again."""

    def __init__(self, path: Path, output: Any, begin: float) -> None:
        import av
        from av.bitstream import BitStreamFilterContext

        self.left_out = ""
        self._filters: dict[int, Any] = {}  # for streams whose packets need another form in a file
        self._output, self._streams = output, {}
        self._input: Any = None
        with suppress(av.FFmpegError, ValueError):  # OpenCV reads files that PyAV does not
            self._input = av.open(str(path))
        if self._input is None:
            return
        self._zero = begin + _start_of(self._input.streams.best("video"))
        for stream in self._input.streams.audio:
            name = stream.codec_context.codec.canonical_name
            if name in output.supported_codecs:
                copy = output.add_stream_from_template(stream, opaque=True)
                self._streams[stream.index] = copy
                if name == "aac" and not stream.codec_context.extradata:  # from a transport stream
                    self._filters[stream.index] = BitStreamFilterContext("aac_adtstoasc", stream)
            else:
                self.left_out = f"its sound ({name}) is left out: {output.format.name} takes none"
        self._packets = self._demux()
        self._next = next(self._packets, None)

    def copy_until(self, seconds: float) -> None:
        """Copy the sound that begins less than `seconds` after the first written frame."""
        import av

        while self._next is not None and self._next[0] < seconds:
            try:
                self._output.mux(self._next[1])
            except av.FFmpegError as error:
                if error.errno == errno.ENOSPC:
                    raise
                self.left_out = f"its sound breaks off ({error.strerror})"
                self._next = None
                return
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Close the input file."""
        if self._input is not None:
            self._input.close()

    def _demux(self) -> Iterator[tuple[float, Any]]:
        """Yield packets from the first written frame on, with their seconds after it."""
        import av

        if not self._streams:
            return
        try:
            for packet in self._input.demux(*self._input.streams.audio):
                if packet.dts is None or packet.pts is None:
                    continue
                target = self._streams.get(packet.stream.index)
                seconds = float(packet.pts * packet.time_base) - self._zero
                if target is None or seconds < 0:
                    continue
                shift = math.floor(self._zero / packet.time_base)  # keeps all times at 0 or more
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                filtered = self._filters.get(packet.stream.index)
                for copy in filtered.filter(packet) if filtered else [packet]:
                    copy.stream = target
                    yield seconds, copy
        except av.FFmpegError:  # the sound of a damaged file ends where it cannot be read
            return


def _create(path: Path, options: dict[str, str]) -> Any:
    import av

    return av.open(str(path), "w", options=options)


def _start_of(stream: Any) -> float:
    """The timestamp of a stream's first frame, in seconds."""
    if stream is None or stream.start_time is None:
        return 0.0
    return float(stream.start_time * stream.time_base)
