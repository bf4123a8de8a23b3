"""Refuse requests from other sites, and set the headers of all answers."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
POLICY_VIOLATION = 1008  # code with which a WebSocket ends


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def fault_of(headers: Headers, local: bool) -> str | None:
    """Why a request is refused; None for a good one.

    Its Origin shows whether a page of another site has sent it. If the server is `local`, its Host
    shows whether the name leads to this machine only by a trick (DNS rebinding).
    """
    host = headers.get("host", "")
    if local and not is_loopback(_split(f"//{host}").hostname or ""):
        return "this page answers under localhost or 127.0.0.1 alone; open it by that address"
    origin = headers.get("origin")
    if origin is not None and _split(origin).netloc != host:
        return "this request comes from another site's page; open the page itself"
    return None


def _split(address: str) -> SplitResult:
    """The parts of an address; empty ones if it is not valid."""
    try:
        return urlsplit(address)
    except ValueError:  # such as half of an IPv6 address
        return urlsplit("")


class Guard:
    """Refuses requests that have a fault, and adds HEADERS to all answers.

    `local`: whether the server only listens to this machine.
    """

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self._app, self._local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        fault = fault_of(Headers(scope=scope), self._local)
        if scope["type"] == "websocket":
            if fault is None:
                return await self._app(scope, receive, send)
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION})

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if fault is None:
            return await self._app(scope, receive, send_with_headers)
        answer = JSONResponse({"error": fault}, status_code=403)
        return await answer(scope, receive, send_with_headers)
