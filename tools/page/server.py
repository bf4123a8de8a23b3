"""The server of the page: files, uploads, videos to save, and a WebSocket for each viewer."""

from __future__ import annotations

import errno
import socket
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from rbsf.tools.page import uploads
from rbsf.tools.page.attend import attend
from rbsf.tools.page.clips import CLIPS
from rbsf.tools.page.guard import Guard, is_loopback
from rbsf.tools.page.messages import MOST_BYTES
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.viewers import Turns, Viewers

STATIC = Path(__file__).resolve().parent / "static"
LAST_SECONDS = 3  # time for open pages when the server ends


def make_app(settings: Settings, local: bool = True) -> Starlette:
    """The server's application. `local`: whether it only listens to this machine."""

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="rbsf-serve-") as folder:
            app.state.viewers = Viewers(settings, Path(folder))
            app.state.turns = Turns(settings.users)
            yield

    async def index(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def upload(request: Request) -> Response:
        viewer = request.app.state.viewers.find(request.query_params.get("viewer", ""))
        sent = await uploads.receive(request, viewer, settings)
        viewer.desk.offer(sent)
        return JSONResponse({"name": sent.name})

    async def video(request: Request) -> Response:
        viewer = request.app.state.viewers.find(request.path_params["viewer"])
        path = viewer.desk.exported
        if path is None or not path.is_file():
            raise Refused("no video was written; save it in the page first", 404)
        return FileResponse(path, filename=path.name)

    async def live(websocket: WebSocket) -> None:
        state = websocket.app.state
        await attend(websocket, state.viewers, state.turns, settings)

    routes = [
        Route("/", index),
        Route("/upload", upload, methods=["POST"]),
        Route("/video/{viewer}", video),
        WebSocketRoute("/live", live),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(
        routes=routes,
        lifespan=life,
        middleware=[Middleware(Guard, local=local)],
        exception_handlers={Refused: _refuse, HTTPException: _refuse_by_code},
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, status_code=error.status)


async def _refuse_by_code(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


def open_port(host: str, port: int) -> socket.socket:
    """Listen to a port; 0 lets the system choose one. Raises ValueError if that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = "give another one, such as --port 0, which takes a free one"
            raise ValueError(f"port {port} of {host} is in use; {advice}") from None
        reason = error.strerror or error
        raise ValueError(f"cannot listen to port {port} of {host}: {reason}") from None


def serve(listener: socket.socket, host: str, settings: Settings) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    # Every visit begins with this clip, which takes a second to make, so it is made now.
    threading.Thread(target=CLIPS[0].open).start()
    config = uvicorn.Config(
        make_app(settings, local=is_loopback(host)),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=MOST_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])
