"""A viewer's visit: they wait for their turn, then each of their messages is answered."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.websockets import WebSocket, WebSocketDisconnect

from rbsf.shipped import DEFAULT
from rbsf.system.text import one_line
from rbsf.tools.page.clips import CLIPS
from rbsf.tools.page.desk import Answer
from rbsf.tools.page.lanes import described
from rbsf.tools.page.messages import MOST_BYTES, NOT_UNDERSTOOD, is_cancel, parse
from rbsf.tools.page.settings import LEAST_SIDE, Refused, Settings
from rbsf.tools.page.viewers import Turns, Viewer, Viewers
from rbsf.tools.page.work import Cancelled

UNANSWERED = 4  # messages that may wait; a page that sends more does not wait for answers
FAULT = "the server has a fault and wrote it to its terminal; load the page again"
BYE_IDLE = "You did nothing for a while, and others wait. Load the page to get in line again."
BYE_FULL = "Too many people wait for this page. Try again later."
BYE_FLOOD = "This page sent messages without waiting for answers."

Inbox = MemoryObjectReceiveStream[str | bytes]
Outbox = MemoryObjectSendStream[str | bytes]


class Visit:
    """One WebSocket from its start to its end."""

    def __init__(self, socket: WebSocket, viewer: Viewer, turns: Turns, settings: Settings) -> None:
        self._socket, self._viewer, self._turns = socket, viewer, turns
        self._settings = settings
        viewer.work.tell_by(self._tell_progress)

    async def run(self) -> None:
        """Serve the viewer until they leave."""
        outbox, inbox = anyio.create_memory_object_stream[str | bytes](UNANSWERED)
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                await self._read(outbox)
                self._viewer.leave()
                tasks.cancel_scope.cancel()

            tasks.start_soon(read)
            with inbox, outbox:
                await self._serve(inbox)
            tasks.cancel_scope.cancel()

    async def _read(self, outbox: Outbox) -> None:
        """Pass messages on until the viewer leaves; a cancellation reaches the work at once."""
        while True:
            message = await self._socket.receive()
            if message["type"] != "websocket.receive":
                break
            text = message.get("text")
            data = text if text is not None else message.get("bytes") or b""
            if is_cancel(data):
                self._viewer.work.cancel()
                continue
            try:
                outbox.send_nowait(data)
            except anyio.WouldBlock:
                await self._end(BYE_FLOOD)
                break
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                break

    async def _serve(self, inbox: Inbox) -> None:
        if self._turns.is_full:
            await self._end(BYE_FULL)
            return
        async with self._turns.turn(self._tell_place):
            self._viewer.served = True
            await self._send(self._hello())
            while (data := await self._next(inbox)) is not None:
                await self._send(await self._answer(data))
            await self._end(BYE_IDLE)

    async def _next(self, inbox: Inbox) -> str | bytes | None:
        """The next message; None if the viewer is idle and another one waits."""
        while True:
            with anyio.move_on_after(self._settings.idle_seconds):
                return await inbox.receive()
            if self._turns.someone_waits and not self._viewer.upload:
                return None

    async def _answer(self, data: str | bytes) -> Answer:
        work, desk = self._viewer.work, self._viewer.desk
        work.begin()
        try:
            if len(data) > MOST_BYTES:
                raise Refused(f"{NOT_UNDERSTOOD}: it is too long")
            return await anyio.to_thread.run_sync(lambda: desk.do(parse(data)))
        except Cancelled:
            return {"type": "cancelled"}
        except (ValueError, OSError, ImportError) as error:
            return {"type": "refused", "text": _sentence(error)}
        except Exception:
            logging.getLogger("rbsf").exception("a viewer's message could not be answered")
            return {"type": "refused", "text": _sentence(FAULT)}

    def _hello(self) -> dict[str, Any]:
        """What the page has to know at the start."""
        return {
            "type": "hello",
            "viewer": self._viewer.name,
            "clips": [clip.title for clip in CLIPS],
            "trackers": described(),
            "chosen": [DEFAULT],
            "megabytes": self._settings.max_upload,
            "length": self._settings.length_in_words,
            "leastSide": LEAST_SIDE,
        }

    async def _tell_place(self, place: int) -> None:
        await self._send({"type": "queue", "place": place, "users": self._settings.users})

    def _tell_progress(self, what: str, done: int, total: int) -> None:
        """Send how far the work is, from the thread that does it."""
        message = {"type": "progress", "text": what, "done": done, "total": total}
        anyio.from_thread.run(self._send, message)

    async def _end(self, text: str) -> None:
        await self._send({"type": "bye", "text": text})

    async def _send(self, message: Answer) -> None:
        try:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_json(message)
        except (WebSocketDisconnect, RuntimeError):  # they left; `_read` notices it
            self._viewer.leave()


def _sentence(what: object) -> str:
    """A message as a sentence."""
    text = one_line(what)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


async def attend(socket: WebSocket, viewers: Viewers, turns: Turns, settings: Settings) -> None:
    """Serve whoever opened a WebSocket, until they leave."""
    await socket.accept()
    with viewers.enter() as viewer:
        await Visit(socket, viewer, turns, settings).run()
    with suppress(WebSocketDisconnect, RuntimeError):  # they may have closed it
        await socket.close()
