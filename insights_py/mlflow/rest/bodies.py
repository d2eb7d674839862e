"""Bodies of requests: no more is read of them than an answer can need.

A web server that speaks ASGI hands the body to Flask as a whole, so there the limit is kept
before Flask (`BodyLimit`); one that speaks WSGI lets Flask read it (`bounded`).  A body that
comes in chunks, without a length, is read up to the limit and passed on with its length,
without which Flask would take it for empty.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from flask import Response, request

from insights_py.mlflow.compat import INVALID_PARAMETER_VALUE, MlflowException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes of a body: the largest filters, 50 of 64 KiB, and a page token fit.
LARGEST = 4 * 1024 * 1024

View = Callable[..., Response]


def _error() -> str:
    error = MlflowException(
        f"The body is too large: at most {LARGEST} bytes are allowed.", INVALID_PARAMETER_VALUE
    )
    return str(error.serialize_as_json())


# ---------------------------------------------------------------------------- WSGI


def bounded(view: View) -> View:
    """The view, with 413 for bodies that are too large."""

    @wraps(view)
    def checked() -> Response:
        if _is_too_large(request.environ):
            refused = Response(_error(), 413, mimetype="application/json")
            refused.headers["Connection"] = "close"
            return refused
        return view()

    return checked


def _is_too_large(environ: dict[str, Any]) -> bool:
    length = environ.get("CONTENT_LENGTH")
    if length and str(length).isdecimal():
        return int(length) > LARGEST
    if not environ.get("wsgi.input_terminated"):
        return False  # Flask reads nothing of it
    chunks: list[bytes] = []
    left = LARGEST + 1
    while left and (chunk := environ["wsgi.input"].read(left)):
        chunks.append(chunk)
        left -= len(chunk)
    body = b"".join(chunks)
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return not left


# ---------------------------------------------------------------------------- ASGI


class BodyLimit:
    """An ASGI app around another one: bodies for some paths are bounded."""

    def __init__(self, app: ASGIApp, paths: Sequence[str]) -> None:
        """``paths``: how the paths begin."""
        self._app = app
        self._paths = tuple(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not scope["path"].startswith(self._paths):
            await self._app(scope, receive, send)
            return
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if not lengths:
            body = await _read(receive)
            if body is None:
                await _refuse(send)
                return
            headers = [one for one in scope["headers"] if one[0] != b"transfer-encoding"]
            headers.append((b"content-length", str(len(body)).encode()))
            await self._app({**scope, "headers": headers}, _given(body, receive), send)
        elif any(not length.isdigit() or int(length) > LARGEST for length in lengths):
            await _refuse(send)
        else:
            # The server gives no more of it than that.
            await self._app(scope, receive, send)


async def _read(receive: Receive) -> bytes | None:
    """The body; None if it is too large."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LARGEST:
            return None
        if not message.get("more_body", False):
            return b"".join(chunks)


def _given(body: bytes, receive: Receive) -> Receive:
    """What an app receives of a body that has been read, and then whatever comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return first.pop() if first else await receive()

    return given


async def _refuse(send: Send) -> None:
    body = _error().encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # What is left of the body is not waited for.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
