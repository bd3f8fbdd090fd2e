"""A request's body on its way: what is at hand may be sent again, what streams is sent once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from starlette.types import Receive

from blatam_kv.gateway.patience import within
from blatam_kv.server.problem import Problem

# As much is gathered before a system is asked, so that a try that came to nothing can be repeated.
REPLAY_BYTES = 64 << 10
# A client that sends nothing for so long in the middle of its body is given up.
IDLE_SECONDS = 30.0


class ClientLeft(Exception):
    """The client closed its connection."""


class Body:
    """The body of one request. first: what has come of it; whole: whether that is all.

    most_bytes: beyond it Problem 413 is raised, whatever Content-Length says.
    """

    def __init__(
        self, headers: Sequence[tuple[bytes, bytes]], receive: Receive, *, most_bytes: int
    ) -> None:
        self._receive = receive
        self._most = most_bytes
        self._seen = 0
        self.first = b""
        self.length: int | None = None
        self.whole = True
        for name, value in headers:
            if name == b"content-length":
                self.length = int(value)
                self.whole = self.length == 0
            elif name == b"transfer-encoding":
                self.whole = False
        if self.length is not None and self.length > most_bytes:
            raise self._too_large()

    async def gather(self, enough: int = REPLAY_BYTES) -> None:
        """Read until it is whole or there is enough. Raises Problem, ClientLeft."""
        while not self.whole and len(self.first) < enough:
            piece = await self._next()
            self.first = self.first + piece if self.first else piece

    async def rest(self) -> AsyncIterator[bytes]:
        """The pieces that were not gathered, as they come. Raises Problem, ClientLeft."""
        while not self.whole:
            if piece := await self._next():
                yield piece

    async def _next(self) -> bytes:
        try:
            message = await within(IDLE_SECONDS, self._receive())
        except TimeoutError:
            detail = f"the body stopped for {IDLE_SECONDS:g} seconds"
            raise Problem(408, detail) from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self.whole = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self._seen += len(piece)
        if self._seen > self._most:
            raise self._too_large()
        return piece

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is larger than {self._most:,} bytes")
