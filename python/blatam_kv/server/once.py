"""Requests that may be repeated: the same Idempotency-Key gets the same answer, once made.

Draft-ietf-httpapi-idempotency-key-header-07, and what Stripe's clients expect: for 24 hours a key of
a tenant and a route stands for one request. Sent again, it gets the answer that was given, byte for
byte, also after a restart; 409 while that is being made, 422 with another body. What failed is not
kept: sent again it is tried again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from blatam_kv.bul.storage import Earlier, Reply
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import END_OF_STREAM

# A stream that is longer is not kept, and its key given back.
MOST_BYTES = 4 << 20
_KEY = re.compile(r'"?[\x21\x23-\x5b\x5d-\x7e]{1,255}"?')
# Of an answer that is given again; everything else is said anew of each exchange.
_REPEATED = frozenset({"content-type", "location", "cache-status", "age", "x-accel-buffering"})


if TYPE_CHECKING:
    from blatam_kv.bul.storage.replies import Replies

_Piece: TypeAlias = "str | bytes | memoryview[int]"


class Once:
    """Answers each key once. Safe from any task."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    async def through(
        self,
        keys: Sequence[str],
        tenant: str,
        route: str,
        body: bytes,
        answer: Callable[[], Awaitable[Response]],
    ) -> Response:
        """The answer, or the one that was given before. Raises Problem 400, 409 or 422, whatever
        ``answer`` raises, and StorageUnavailable."""
        if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
            detail = "Idempotency-Key is 1 to 255 visible characters, once"
            raise Problem(400, detail, errors=[("Idempotency-Key", detail)])
        named = (tenant, route, keys[0].strip('"'))
        request = hashlib.blake2b(body, digest_size=32).hexdigest()
        earlier = await run_in_threadpool(self._replies.claim, *named, request)
        if earlier is not None:
            return _again(earlier, request)
        try:
            response = await answer()
            if isinstance(response, StreamingResponse) and response.status_code < 400:
                response.body_iterator = self._heard(response, response.body_iterator, named)
            elif response.status_code < 400:
                await self._surely(self._replies.keep, named, _kept(response, bytes(response.body)))
            else:
                await self._surely(self._replies.release, named)
        except BaseException:
            await self._surely(self._replies.release, named)
            raise
        return response

    async def _heard(
        self, response: Response, told: AsyncIterable[_Piece], named: tuple[str, str, str]
    ) -> AsyncIterator[_Piece]:
        """A stream, kept if it was heard to its end and that is a good one."""
        pieces: list[bytes] = []
        size, last = 0, b""
        try:
            async for piece in told:
                last = piece.encode() if isinstance(piece, str) else bytes(piece)
                size += len(last)
                if size <= MOST_BYTES:
                    pieces.append(last)
                yield piece
        finally:
            if size <= MOST_BYTES and last.endswith(END_OF_STREAM):
                await self._surely(self._replies.keep, named, _kept(response, b"".join(pieces)))
            else:
                await self._surely(self._replies.release, named)

    @staticmethod
    async def _surely(
        write: Callable[..., None], named: tuple[str, str, str], *more: Reply
    ) -> None:
        """Also when the client has gone, which cancels the task."""
        with CancelScope(shield=True):
            await run_in_threadpool(write, *named, *more)


def _kept(response: Response, body: bytes) -> Reply:
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers
    ]
    return Reply(response.status_code, [pair for pair in headers if pair[0] in _REPEATED], body)


def _again(earlier: Earlier, request: str) -> Response:
    if earlier.request != request:
        raise Problem(
            422,
            "this Idempotency-Key was sent with another body; make a new key for a new request",
            errors=[("Idempotency-Key", "was sent with another body")],
        )
    if earlier.reply is None:
        detail = "the request with this Idempotency-Key is being answered; ask again in a moment"
        raise Problem(409, detail, headers={"Retry-After": "1"})
    response = Response(earlier.reply.body, earlier.reply.status)
    for name, value in earlier.reply.headers:
        response.headers[name] = value
    response.headers["idempotency-replayed"] = "true"
    return response
