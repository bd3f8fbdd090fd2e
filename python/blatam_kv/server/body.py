"""Request bodies: counted while they arrive, then read as strict JSON."""

from __future__ import annotations

import asyncio

import orjson
from starlette.requests import Request

from blatam_kv.server.problem import Problem

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 16
# Less than the server waits for running requests when it stops, so a stalled one cannot hold it.
MAX_BODY_SECONDS = 8.0


async def read_json(request: Request) -> object:
    """The body as a JSON value. Raises Problem 400, 408, 413 or 415 with the fix.

    Strict UTF-8, no NaN, at most MAX_DEPTH levels. The limit holds for what really arrives,
    whatever Content-Length says.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "send the body as Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "send the body without Content-Encoding")
    body = await read_body(request)
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem(400, f"the body is not valid JSON: {error.msg} ({where})") from None
    # No more brackets than levels allowed: it cannot be deeper, and need not be walked.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise Problem(400, f"the body is nested deeper than {MAX_DEPTH} levels")
    return value


async def read_body(request: Request) -> bytes:
    """The body, read once. Raises Problem 408 or 413."""
    if (kept := getattr(request.state, "body", None)) is not None:
        return bytes(kept)
    too_large = Problem(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {MAX_BODY_SECONDS} seconds") from None
    request.state.body = bytes(body)
    return bytes(body)


def _deeper_than(value: object, levels: int) -> bool:
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [
            item
            for holder in layer
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not layer:
            return False
    return any(isinstance(item, dict | list) for item in layer)
