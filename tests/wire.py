"""A line between a program and a server, which can be slow, narrow, silent or cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CHUNK = 64 << 10


class Wire:
    """Carries bytes from a port on this machine to a socket in the file system.

    delay: seconds that each piece takes, each way. bytes_per_second: None for as many as come. Both may
    be changed at any time; ``silent``, ``cut`` and ``mend`` hold for the connections there are, too.
    """

    def __init__(self, upstream: Path) -> None:
        self.delay = 0.0
        self.bytes_per_second: float | None = None
        self.port = 0
        self._upstream = upstream
        self._is_cut = False
        self._loop = asyncio.new_event_loop()
        self._flows, self._closed = asyncio.Event(), asyncio.Event()
        self._carried: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def silent(self) -> None:
        """Swallow everything, and look alive."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._end)

    def mend(self) -> None:
        """As at first. What was swallowed arrives, where somebody still waits for it."""
        self.delay, self.bytes_per_second, self._is_cut = 0.0, None, False
        self._loop.call_soon_threadsafe(self._flows.set)

    def close(self) -> None:
        """Take it away."""
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        self._flows.set()
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._closed.wait()
        self._flows.set()
        self._end()
        await asyncio.gather(*self._carried)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own, for the server's are cancelled with it.
        task = asyncio.create_task(self._carry(reader, writer))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    def _end(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            if self._is_cut:
                return
            far, other = await asyncio.open_unix_connection(self._upstream)
            self._ends.add(other)
            await asyncio.gather(self._pump(reader, other), self._pump(far, writer))
        except OSError:
            pass  # the server is away
        finally:
            for end in (writer, other):
                if end is not None:
                    self._ends.discard(end)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_CHUNK):
            pause = self.delay
            if self.bytes_per_second is not None:
                pause += len(piece) / self.bytes_per_second
            if pause:
                await asyncio.sleep(pause)
            await self._flows.wait()
            writer.write(piece)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


@contextmanager
def wire(upstream: Path) -> Iterator[Wire]:
    """A line for the body of a ``with``."""
    line = Wire(upstream)
    try:
        yield line
    finally:
        line.close()
