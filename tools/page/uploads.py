"""Videos that viewers send: written to the disk as they come, and removed if refused."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from rbsf.datasets.video.frames import VIDEO_SUFFIXES
from rbsf.tools.page.sent import SentVideo
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.viewers import Viewer

CONFLICT, GONE, TOO_LARGE, NO_VIDEO_NAME, NO_ROOM = 409, 410, 413, 415, 507  # codes of HTTP


async def receive(request: Request, viewer: Viewer, settings: Settings) -> SentVideo:
    """Store the video in a request's body, named by its query; opening it checks its content.

    Raises Refused if its name is not a video's, or if it is too large.
    """
    told = Path(request.query_params.get("name", ""))
    name, suffix = f"{told.stem[:100]}{told.suffix[:100]}", told.suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        known = ", ".join(VIDEO_SUFFIXES)
        named = f"the file {name}".rstrip()
        raise Refused(f"{named} is no video by its name; give one of {known}", NO_VIDEO_NAME)
    _check_length(request.headers.get("content-length"), name, settings)
    if viewer.upload:
        raise Refused("another upload of this page is under way; cancel it first", CONFLICT)
    sent, whole = SentVideo(viewer.folder / f"{secrets.token_hex(16)}{suffix}", name), False
    try:
        with anyio.CancelScope() as viewer.upload:  # ends when the viewer leaves
            await _write(request, sent, settings)
            whole = True
    except OSError as error:
        raise Refused(f"the server cannot keep {name}: {error.strerror}", NO_ROOM) from error
    except ClientDisconnect:
        pass
    finally:
        viewer.upload = None
        if not whole:
            sent.remove()
    if not whole:
        raise Refused("the upload was cancelled", GONE)
    return sent


def _check_length(told: str | None, name: str, settings: Settings) -> None:
    """Raise Refused if the header says that the file is too large or empty."""
    if told is None:
        return
    if not told.isdecimal():
        raise Refused("the request tells no length that can be read")
    if int(told) > settings.most_bytes:
        raise _too_large(name, settings)
    if int(told) == 0:
        raise _empty(name)


def _too_large(name: str, settings: Settings) -> Refused:
    most = f"{settings.max_upload} MB"
    advice = "cut it, or start the server with a larger --max-upload"
    return Refused(
        f"the file {name} is larger than {most}, the most for this page; {advice}", TOO_LARGE
    )


def _empty(name: str) -> Refused:
    return Refused(f"the file {name} is empty (0 bytes); choose another file")


async def _write(request: Request, sent: SentVideo, settings: Settings) -> None:
    """Write the body to the file, as it comes."""
    size = 0
    with sent.path.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > settings.most_bytes:
                raise _too_large(sent.name, settings)
            await anyio.to_thread.run_sync(file.write, chunk)
    if not size:
        raise _empty(sent.name)
