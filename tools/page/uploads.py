"""Videos that viewers send: streamed to the disk, counted, opened, removed when they are wrong."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from rbsf.datasets.video.frames import VIDEO_SUFFIXES, open_frames
from rbsf.datasets.video.sources import Frames
from rbsf.tools.page.footage import EndOfVideo, Spool, VideoFootage
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.viewers import Viewer
from rbsf.tools.page.work import Cancelled

HEAD = 1024  # bytes of a file that tell a text or a picture
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")
CONFLICT, GONE, TOO_LARGE, NO_VIDEO_NAME, NO_VIDEO, NO_ROOM = 409, 410, 413, 415, 422, 507


async def receive(request: Request, viewer: Viewer, settings: Settings) -> VideoFootage:
    """The video in a request's body, named by its query.

    It belongs to the viewer then. Raises Refused for what is no video, or too large.
    """
    name = Path(request.query_params.get("name", "")).name[:200]
    suffix = Path(name).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        known = ", ".join(VIDEO_SUFFIXES)
        named = name or "the file"
        raise Refused(f"{named} is no video by its name; give one of {known}", NO_VIDEO_NAME)
    _check_length(request.headers.get("content-length"), name, settings)
    if viewer.sending:
        raise Refused("another upload of this page is under way; cancel it first", CONFLICT)
    viewer.sending = True
    path = viewer.folder / f"{secrets.token_hex(16)}{suffix}"
    footage = None
    try:
        await _write(request, path, name, viewer, settings)
        footage = await anyio.to_thread.run_sync(_open, path, name, viewer, settings)
    except OSError as error:
        raise Refused(f"the server cannot keep {name}: {error.strerror}", NO_ROOM) from error
    except (Cancelled, ClientDisconnect):
        raise Refused("the upload was cancelled", GONE) from None
    finally:
        viewer.sending = False
        if footage is None:
            path.unlink(missing_ok=True)
    return footage


def _check_length(told: str | None, name: str, settings: Settings) -> None:
    """Raise Refused where the header tells that the file is too large, or empty."""
    if told is None:
        return
    if not told.isdecimal():
        raise Refused("the request tells no length that can be read")
    if int(told) > settings.most_bytes:
        raise _too_large(name, settings)
    if int(told) == 0:
        raise Refused(f"{name} is empty (0 bytes); choose another file")


def _too_large(name: str, settings: Settings) -> Refused:
    most = f"{settings.max_upload} MB"
    advice = "cut it, or start the server with a larger --max-upload"
    return Refused(f"{name} is larger than {most}, the most for this page; {advice}", TOO_LARGE)


async def _write(
    request: Request, path: Path, name: str, viewer: Viewer, settings: Settings
) -> None:
    """Write the body to a file, as it comes."""
    size = 0
    async with await anyio.open_file(path, "wb") as file:
        async for chunk in request.stream():
            viewer.work.check_there()
            size += len(chunk)
            if size > settings.most_bytes:
                raise _too_large(name, settings)
            await file.write(chunk)
    if not size:
        raise Refused(f"{name} is empty (0 bytes); choose another file")


def _open(path: Path, name: str, viewer: Viewer, settings: Settings) -> VideoFootage:
    """The video in a file. Raises Refused, whose sentence has the viewer's name of the file."""
    _check_head(path, name)
    try:
        frames = open_frames(path)
    except ValueError as error:
        raise Refused(_renamed(error, path, name), NO_VIDEO) from None
    _check_frames(frames, name, settings)
    work, spool = viewer.work.beside(), Spool(viewer.folder, settings.most_bytes)
    try:
        footage = VideoFootage(frames, settings.most_frames(frames.fps), spool, work)
        footage.image(1, work)
        footage.image(0, work)
    except EndOfVideo:
        raise Refused(f"{name} holds fewer than two frames; choose a video", NO_VIDEO) from None
    except ValueError as error:
        raise Refused(_renamed(error, path, name), NO_VIDEO) from None
    footage.name, footage.file = name, path
    return footage


def _check_head(path: Path, name: str) -> None:
    """Refuse texts and pictures, whatever their name; FFmpeg would follow a text's addresses."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(PICTURES):
        raise Refused(f"{name} is a picture, whatever its name says; choose a video", NO_VIDEO)
    if b"\0" not in head:
        raise Refused(f"{name} is a text, whatever its name says; choose a video", NO_VIDEO)


def _check_frames(frames: Frames, name: str, settings: Settings) -> None:
    """Refuse a video that is too long by its header."""
    if frames.count and frames.count > settings.most_frames(frames.fps):
        raise Refused(
            f"{name} has {frames.count} frames, and this page takes {settings.length_in_words};"
            " cut it, or start the server with a larger --max-length",
            TOO_LARGE,
        )


def _renamed(error: Exception, path: Path, name: str) -> str:
    """What an error says, with the viewer's name of the file in place of the server's."""
    return str(error).replace(str(path), name).replace(path.name, name)
