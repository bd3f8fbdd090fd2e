"""Health of the systems: all are asked at once, every few seconds, and none waits for another."""

from __future__ import annotations

import asyncio
import time

from blatam_kv.gateway.systems import Check, Systems, Upstream
from blatam_kv.gateway.wire import Failure

_AGENT = b"user-agent: blatam-kv-gateway\r\naccept: */*\r\n\r\n"
# As much of a health page is read as shows that it ends.
_MOST_BYTES = 1 << 20


class Checks:
    """Checks systems, and remembers what it found with each. Used in the loop's thread."""

    def __init__(self, systems: Systems) -> None:
        self._systems = systems

    async def run(self) -> None:
        """Check all until cancelled."""
        while True:
            await self.all()
            await asyncio.sleep(self._systems.configuration.health_seconds)

    async def all(self) -> dict[str, Check]:
        """Check every system now."""
        upstreams = list(self._systems.by_name.values())
        found = await asyncio.gather(*map(self.one, upstreams))
        return {each.system.name: check for each, check in zip(upstreams, found, strict=True)}

    async def one(self, upstream: Upstream) -> Check:
        """Check one system now. What fails is a check that failed, never an error."""
        at, start = time.time(), time.monotonic()
        seconds = self._systems.configuration.health_timeout_seconds
        status = None
        try:
            async with asyncio.timeout(seconds):
                status = await self._asked(upstream, seconds)
            well = 200 <= status < 400
            detail = "" if well else f"{upstream.system.health} answered {status}"
        except Failure as failure:
            well, detail = False, failure.detail
        except TimeoutError:
            well, detail = False, f"did not answer within {seconds:g} seconds"
        check = Check(
            at=at, well=well, status=status, seconds=time.monotonic() - start, detail=detail
        )
        upstream.found(check)
        return check

    async def _asked(self, upstream: Upstream, seconds: float) -> int:
        line = b"GET %b HTTP/1.1\r\nhost: %b\r\n" % (upstream.health_target(), upstream.authority)
        connection = await upstream.pool.take(fresh=True)
        try:
            connection.begin(line + _AGENT, bodiless=False)
            await connection.head(seconds)
            status, read = connection.status, 0
            while read < _MOST_BYTES and (piece := await connection.more(seconds)):
                read += len(piece)
            return status
        finally:
            upstream.pool.give_back(connection)
