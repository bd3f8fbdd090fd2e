"""How many exchanges are under way, counted at the door."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from blatam_kv.server.envelope import Envelope
from blatam_kv.server.hosts import Hosts


class Noted:
    """A stopwatch that counts as the services' do."""

    def __init__(self) -> None:
        self.exchanges = 0
        self.told: list[int] = []

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        self.told.append(status)


def asked(host: str, fails: bool) -> tuple[Noted, list[int]]:
    """An exchange from begin to end; what was under way meanwhile."""
    noted = Noted()
    meanwhile: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        meanwhile.append(noted.exchanges)
        if fails:
            raise RuntimeError
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        """Nobody listens."""

    envelope = Envelope(app, life=app, metrics=noted, hosts=Hosts("127.0.0.1"))
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
    scope["headers"] = [(b"host", host.encode())]
    with suppress(RuntimeError):
        asyncio.run(envelope(scope, receive, send))
    return noted, meanwhile


def test_an_exchange_is_under_way_from_its_door_to_its_end() -> None:
    noted, meanwhile = asked("localhost", fails=False)
    assert (noted.exchanges, meanwhile, noted.told) == (0, [1], [204])


def test_one_that_is_refused_at_the_door_is_not_under_way_afterwards() -> None:
    noted, meanwhile = asked("elsewhere.example", fails=False)
    assert (noted.exchanges, meanwhile, noted.told) == (0, [], [421])


def test_one_that_breaks_is_not_under_way_afterwards() -> None:
    noted, meanwhile = asked("localhost", fails=True)
    assert (noted.exchanges, meanwhile, noted.told) == (0, [1], [500])
