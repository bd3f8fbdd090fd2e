"""Kept connections to one system."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from blatam_kv.gateway.wire import Connection, Failure, Reason


class Pool:
    """Connections to the origin of a URL. Used in the loop's thread.

    most: in use at a time. keep_seconds: for how long one waits for its next exchange; less than
    the system keeps it, or requests would be sent into connections that are being closed.
    """

    def __init__(self, url: str, *, most: int, keep_seconds: float, connect_seconds: float) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._secure = ssl.create_default_context() if secure else None
        self._most = most
        self._keep_seconds = keep_seconds
        self._connect_seconds = connect_seconds
        self._idle: list[Connection] = []
        self._closed = False
        self.in_use = 0
        self.opened = 0

    @property
    def idle(self) -> int:
        """Connections that wait."""
        return len(self._idle)

    async def take(self, *, fresh: bool = False) -> Connection:
        """A connection; fresh: a new one. Raises Failure. Give each back."""
        self.enter()
        try:
            if not fresh and self._idle:
                oldest = asyncio.get_running_loop().time() - self._keep_seconds
                while self._idle:
                    kept = self._idle.pop()
                    if kept.alive and kept.idle_since > oldest:
                        return kept
                    kept.close()
            return await self._open()
        except BaseException:
            self.leave()
            raise

    def enter(self) -> None:
        """Count one more in use. Raises Failure if that is one too many."""
        if self.in_use >= self._most:
            raise Failure(Reason.BUSY, f"has {self._most:,} requests under way", sent=False)
        self.in_use += 1

    def leave(self) -> None:
        """Count one less."""
        self.in_use -= 1

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    Connection, self._host, self._port, ssl=self._secure
                )
        except TimeoutError:
            detail = f"did not take the connection within {self._connect_seconds:g} seconds"
            raise Failure(Reason.CONNECT_TIMEOUT, detail, sent=False) from None
        except (OSError, UnicodeError) as error:  # the second, of a name that cannot be one
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            detail = f"cannot be reached ({reason[:120]})"
            raise Failure(Reason.CONNECT, detail, sent=False) from None
        self.opened += 1
        return connection

    def give_back(self, connection: Connection) -> None:
        """After an exchange: keep it if another may follow, else close it."""
        self.leave()
        if self._closed or not connection.reusable:
            connection.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def close(self) -> None:
        """Close what waits now, and what is in use when it comes back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
