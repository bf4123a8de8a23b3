"""A viewer's video, targets and trackers, and what each message of the page does with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rbsf.datasets.synthetic.scene import Scene
from rbsf.shipped import DEFAULT
from rbsf.tools.page import downloads
from rbsf.tools.page.clips import CLIPS
from rbsf.tools.page.footage import CameraFootage, EndOfVideo, Footage, VideoFootage
from rbsf.tools.page.lanes import MOST_TRACKERS, Lane, offered
from rbsf.tools.page.messages import Message, pack
from rbsf.tools.page.sent import SentVideo
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.spool import Spool
from rbsf.tools.page.timeline import Timeline
from rbsf.tools.page.view import of_footage, of_timeline, rounded
from rbsf.tools.page.work import Work

Answer = dict[str, Any] | bytes  # a message of text, or a binary one


class Desk:
    """A viewer's video, targets and trackers. Only one thread at a time uses it."""

    def __init__(self, settings: Settings, folder: Path, work: Work) -> None:
        self.settings, self.folder, self.work = settings, folder, work
        self.exported: Path | None = None  # the last video that was written
        self._footage: Footage | None = None
        self._sent: SentVideo | None = None  # a video that can be opened
        self._scene: Scene | None = None  # the scene of a made-up clip
        self._timeline = Timeline()
        self._names = [DEFAULT]

    def do(self, message: Message) -> Answer:
        """Do what a message says. Raises Refused, Cancelled, and ValueError with a sentence."""
        action = ACTIONS.get(message.do)
        if action is None:
            raise Refused(f"the server knows no message {message.do[:40]!r}")
        try:
            return action(self, message)
        except EndOfVideo:
            last = self._open.count - 1
            there = f"the last is {last}" if last >= 0 else "none has come from the camera yet"
            raise Refused(f"there is no such frame; {there}") from None

    def spool(self) -> Spool:
        """A new place for pictures."""
        return Spool(self.folder, self.settings.most_bytes)

    def offer(self, sent: SentVideo) -> None:
        """Keep a sent video to be opened; it replaces one that was not opened."""
        if self._sent:
            self._sent.remove()
        self._sent = sent

    def close(self) -> None:
        """Remove what is on the disk."""
        if self._footage:
            self._footage.close()
        if self._sent:
            self._sent.remove()

    def open_clip(self, message: Message) -> Answer:
        """Open a made-up clip by its number."""
        number = message.whole("number")
        if number >= len(CLIPS):
            raise Refused(f"there is no clip {number}")
        frames, scene = CLIPS[number].open()
        footage = VideoFootage(frames, frames.count or 0, self.spool(), self.work)
        self._take(footage, scene)
        return self._view(0, message)

    def open_upload(self, message: Message) -> Answer:
        """Open the video that was sent."""
        if self._sent is None:
            raise Refused("no video has come; send one first")
        sent, self._sent = self._sent, None
        spool = self.spool()
        try:
            footage = sent.open(self.settings, spool, self.work)
        except BaseException:
            spool.close()
            sent.remove()
            raise
        self._take(footage)
        return self._view(0, message)

    def open_camera(self, message: Message) -> Answer:
        """Get ready for the camera's frames."""
        most = self.settings.most_frames(None)
        self._take(CameraFootage(most, self.spool()))
        return {"type": "done"}

    def add_frame(self, message: Message) -> Answer:
        """Track in a frame of the camera."""
        footage = self._open
        if not isinstance(footage, CameraFootage):
            raise Refused("the camera is not in use")
        frame = footage.append(message.picture, message.number("seconds"))
        self._timeline.follow(frame, footage.image(frame, self.work))
        return self._view(frame, message)

    def choose_trackers(self, message: Message) -> Answer:
        """Use these trackers, and no others."""
        paths = offered()
        names = message.texts("names")
        names = list(dict.fromkeys(names))
        if not 1 <= len(names) <= MOST_TRACKERS or not set(names) <= paths.keys():
            known = ", ".join(paths)
            raise Refused(f"choose one to {MOST_TRACKERS} of these trackers: {known}")
        self._load(names)
        if self._footage is None or self._footage.count == 0:
            return {"type": "done"}
        return self._view(message.whole("frame"), message)

    def show(self, message: Message) -> Answer:
        """Show a frame, with what was found in it."""
        footage = self._open
        frame = min(message.whole("frame"), footage.count - 1)
        try:
            footage.jpeg(frame, self.work)
        except EndOfVideo:  # the video has fewer frames than its header says
            frame = footage.count - 1
        return self._view(frame, message)

    def step(self, message: Message) -> Answer:
        """Go to the frame after one, and track in it."""
        footage, frame = self._open, message.whole("frame") + 1
        try:
            self._timeline.follow(frame, footage.image(frame, self.work))
            return self._view(frame, message)
        except EndOfVideo:
            return {"type": "ended", "count": footage.count, "note": footage.note}

    def draw(self, message: Message) -> Answer:
        """Learn a target, new or existing, from a box in a frame."""
        target = None if message.fields.get("target") is None else message.whole("target")
        frame = message.whole("frame")
        image = self._image(frame)
        notes = self._timeline.draw(target, frame, image, message.box())
        return self._view(frame, message, "; ".join(notes))

    def drop(self, message: Message) -> Answer:
        """Stop following a target from a frame on."""
        frame = message.whole("frame")
        self._timeline.drop(message.whole("target"), frame)
        return self._view(frame, message)

    def undo(self, message: Message) -> Answer:
        """Undo the last box or drop."""
        change = self._timeline.undo()
        return self._view(change.frame, message)

    def save_boxes(self, message: Message) -> Answer:
        """The file of a tracker's boxes."""
        lane = self._lane(message)
        name, data = downloads.boxes(self._open, lane.results(), message.text("form"))
        return pack({"type": "file", "name": name}, data)

    def save_picture(self, message: Message) -> Answer:
        """A frame with a tracker's boxes."""
        lane, frame = self._lane(message), message.whole("frame")
        results = {target: seen.result for target, seen in lane.at(frame).items()}
        name, data = downloads.picture(self._open, frame, self._image(frame), results)
        return pack({"type": "file", "name": name}, data)

    def save_video(self, message: Message) -> Answer:
        """Write the video with a tracker's boxes; the page then fetches it."""
        lane = self._lane(message)
        path, note = downloads.video(self._open, lane.results(), self.folder, self.work)
        if self.exported and self.exported != path:
            self.exported.unlink(missing_ok=True)
        self.exported = path
        return {"type": "video", "name": path.name, "note": note}

    @property
    def _open(self) -> Footage:
        if self._footage is None:
            raise Refused("no video is open; choose one first")
        return self._footage

    def _take(self, footage: Footage, scene: Scene | None = None) -> None:
        """Work with another video from now on."""
        if self._footage:
            self._footage.close()
        self._footage, self._scene = footage, scene
        self._timeline = self._timeline.emptied()
        self._load(self._names)

    def _load(self, names: list[str]) -> None:
        def load(name: str) -> Lane:
            return Lane.load(offered()[name], self.settings.threads)

        _, last = self._timeline.reach() or (0, 0)

        def image(frame: int) -> np.ndarray:
            self.work.tell("The new tracker catches up", frame, last + 1)
            return self._image(frame)

        self._timeline.choose(names, load, image)
        self._names = names

    def _lane(self, message: Message) -> Lane:
        name = message.text("tracker")
        if name not in self._timeline.lanes:
            raise Refused(f"the tracker {name[:40]!r} is not in use; tick it first")
        return self._timeline.lanes[name]

    def _image(self, frame: int) -> np.ndarray:
        return self._open.image(frame, self.work)

    def _view(self, frame: int, message: Message, note: str = "") -> bytes:
        """The message that shows a frame: what was found in it, and the picture."""
        footage, fields = self._open, message.fields
        jpeg = footage.jpeg(frame, self.work)
        header = {
            "type": "view",
            "asked": fields.get("asked"),
            "note": note or footage.note,
            "suggested": rounded(self._scene.box(frame)) if self._scene else None,
            **of_footage(footage, frame),
            **of_timeline(self._timeline, frame, with_maps=bool(fields.get("maps"))),
        }
        return pack(header, jpeg)


ACTIONS: dict[str, Callable[[Desk, Message], Answer]] = {
    "clip": Desk.open_clip,
    "open": Desk.open_upload,
    "camera": Desk.open_camera,
    "frame": Desk.add_frame,
    "trackers": Desk.choose_trackers,
    "show": Desk.show,
    "step": Desk.step,
    "draw": Desk.draw,
    "drop": Desk.drop,
    "undo": Desk.undo,
    "boxes": Desk.save_boxes,
    "picture": Desk.save_picture,
    "video": Desk.save_video,
}
