"""Videos that viewers send: streamed to the disk, counted, removed when they are wrong."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from rbsf.datasets.video.frames import VIDEO_SUFFIXES
from rbsf.tools.page.sent import TOO_LARGE, SentVideo
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.spool import Spool
from rbsf.tools.page.viewers import Viewer
from rbsf.tools.page.work import Cancelled

CONFLICT, GONE, NO_VIDEO_NAME, NO_ROOM = 409, 410, 415, 507


async def receive(request: Request, viewer: Viewer, settings: Settings) -> SentVideo:
    """The video in a request's body, named by its query.

    It is looked into, unless the query has `later`: then that is left to whoever opens it. Raises
    Refused for what is no video, or too large.
    """
    name = Path(request.query_params.get("name", "")).name[:200]
    suffix = Path(name).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        known = ", ".join(VIDEO_SUFFIXES)
        named = f"the file {name}".rstrip()
        raise Refused(f"{named} is no video by its name; give one of {known}", NO_VIDEO_NAME)
    _check_length(request.headers.get("content-length"), name, settings)
    if viewer.sending:
        raise Refused("another upload of this page is under way; cancel it first", CONFLICT)
    sent = SentVideo(viewer.folder / f"{secrets.token_hex(16)}{suffix}", name)
    viewer.sending, good = True, False
    try:
        await _write(request, sent, viewer, settings)
        if "later" not in request.query_params:
            await anyio.to_thread.run_sync(_look_into, sent, viewer, settings)
        good = True
    except OSError as error:
        raise Refused(f"the server cannot keep {name}: {error.strerror}", NO_ROOM) from error
    except (Cancelled, ClientDisconnect):
        raise Refused("the upload was cancelled", GONE) from None
    finally:
        viewer.sending = False
        if not good:
            sent.remove()
    return sent


def _check_length(told: str | None, name: str, settings: Settings) -> None:
    """Raise Refused where the header tells that the file is too large, or empty."""
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


async def _write(request: Request, sent: SentVideo, viewer: Viewer, settings: Settings) -> None:
    """Write the body to the file, as it comes."""
    size = 0
    async with await anyio.open_file(sent.path, "wb") as file:
        async for chunk in request.stream():
            viewer.work.check_there()
            size += len(chunk)
            if size > settings.most_bytes:
                raise _too_large(sent.name, settings)
            await file.write(chunk)
    if not size:
        raise _empty(sent.name)


def _look_into(sent: SentVideo, viewer: Viewer, settings: Settings) -> None:
    """Raise Refused where a file is no video."""
    spool = Spool(viewer.folder, settings.most_bytes)
    try:
        sent.open(settings, spool, viewer.work.beside())
    finally:
        spool.close()
