"""Requests that may be repeated: the same Idempotency-Key gets the same answer, once made.

Draft-ietf-httpapi-idempotency-key-header-07, and what Stripe's clients expect: for 24 hours a key of
a tenant and a route stands for one request. Sent again, it gets the answer that was given, byte for
byte, also after a restart; 409 while that is being made, 422 with another body. What failed is not
kept: sent again it is tried again. So is what a node was saying when it died: sent again, to any
other, the answer comes from its beginning. Going on where the first broke off would put together the
halves of two answers, for a model does not say the same twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from blatam_kv.bul.storage import Claim, Earlier, Reply, StorageUnavailable
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import END_OF_STREAM

# A stream that is longer is not kept, and its key given back.
MOST_BYTES = 4 << 20
# A proxy asks the next node within milliseconds of a node's death; the database knows a moment later.
_TRIES, _PAUSE_SECONDS = 5, 0.1
# What a database that went away meanwhile is told when it is back: so many replies, none longer.
_MOST_OWED, _MOST_OWED_BYTES = 100, 256 << 10
_KEY = re.compile(r'"?[\x21\x23-\x5b\x5d-\x7e]{1,255}"?')
# Of an answer that is given again; everything else is said anew of each exchange.
_REPEATED = frozenset({"content-type", "location", "cache-status", "age", "x-accel-buffering"})


if TYPE_CHECKING:
    from blatam_kv.bul.storage.replies import Replies

log = logging.getLogger("blatam_kv.server")

_Piece: TypeAlias = "str | bytes | memoryview[int]"


class Once:
    """Answers each key once. Safe from any task."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._owed: deque[tuple[Claim, Reply | None]] = deque(maxlen=_MOST_OWED)

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
        claim = await self._claim(*named, request)
        if isinstance(claim, Earlier):
            return _again(claim, request)
        try:
            response = await answer()
            if isinstance(response, StreamingResponse) and response.status_code < 400:
                response.body_iterator = self._heard(response, response.body_iterator, claim)
            elif response.status_code < 400:
                await self._settle(claim, _kept(response, bytes(response.body)))
            else:
                await self._settle(claim, None)
        except BaseException:
            await self._settle(claim, None)
            raise
        return response

    async def _claim(self, tenant: str, route: str, key: str, request: str) -> Claim | Earlier:
        """The key, or who has it; who asks waits a moment for a node that may be dead."""
        if self._owed:
            await run_in_threadpool(self._pay)
        for left in reversed(range(_TRIES)):
            found = await run_in_threadpool(self._replies.claim, tenant, route, key, request)
            if isinstance(found, Claim) or not left or not found.elsewhere:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        return found

    async def _heard(
        self, response: Response, told: AsyncIterable[_Piece], claim: Claim
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
                await self._settle(claim, _kept(response, b"".join(pieces)))
            else:
                await self._settle(claim, None)

    async def _settle(self, claim: Claim, reply: Reply | None) -> None:
        """Keep the reply, or give the key back; also when the client has gone, which cancels the task.
        An answer that is there does not fail because it cannot be noted."""
        with CancelScope(shield=True):
            try:
                await run_in_threadpool(self._write, claim, reply)
            except StorageUnavailable as error:
                log.warning("an answer under an Idempotency-Key is not noted yet: %s", error)
                if reply is not None and len(reply.body) > _MOST_OWED_BYTES:
                    reply = None
                self._owed.append((claim, reply))

    def _write(self, claim: Claim, reply: Reply | None) -> None:
        if reply is None:
            self._replies.release(claim)
        else:
            self._replies.keep(claim, reply)

    def _pay(self) -> None:
        """Write what could not be written. Raises StorageUnavailable if it still cannot."""
        while self._owed:
            try:
                claim, reply = self._owed.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                self._write(claim, reply)
            except StorageUnavailable:
                self._owed.appendleft((claim, reply))
                raise


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
