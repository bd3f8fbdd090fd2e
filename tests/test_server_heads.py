"""What comes before a request is one: bounded in size and time, and no reason to lose its body."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from blatam_kv.server.heads import MAX_HEAD_BYTES, Heads

HOST = b"Host: 127.0.0.1\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


class Echo:
    """Answers with method, path and body. Waits for ``go`` if the path is /slow."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/slow":
            self.begun.set()
            await self.go.wait()
        said = b"%b %b %b" % (scope["method"].encode(), scope["raw_path"], body)
        length = (b"content-length", b"%d" % len(said))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": said})


async def talk(client: Client, app: Any, made: list[Heads] | None = None) -> bytes:
    """What a client makes of a server. made: is told the server's end of the connection."""
    config = uvicorn.Config(app, http=Heads, lifespan="off", log_level="critical")
    state = ServerState()
    loop = asyncio.get_running_loop()

    def heads() -> Heads:
        found = Heads(config, state, {})
        if made is not None:
            made.append(found)
        return found

    server = await loop.create_server(heads, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await client(reader, writer)
        finally:
            writer.close()


async def one(reader: asyncio.StreamReader) -> bytes:
    """The body of one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


def sending(*pieces: bytes, answers: int = 1) -> Client:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return b" | ".join([await one(reader) for _ in range(answers)])

    return client


def test_a_body_after_an_upgrade_that_is_ignored_arrives() -> None:
    post = b"POST /a%20b?c=d HTTP/1.1\r\n" + HOST + H2C

    async def told(*pieces: bytes, answers: int = 1) -> bytes:
        return await talk(sending(*pieces, answers=answers), Echo())

    async def all_of_it() -> None:
        whole = post + b"Content-Length: 5\r\n\r\nhello"
        assert await told(whole) == b"POST /a%20b hello"
        assert await told(*(whole[at : at + 1] for at in range(len(whole)))) == b"POST /a%20b hello"
        chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
        assert await told(chunked, b"5\r\nhello\r\n0\r\n\r\n") == b"POST /a%20b hello"
        get = b"GET /x HTTP/1.1\r\n" + HOST
        assert await told(get + H2C + b"\r\n", get + b"\r\n", answers=2) == b"GET /x  | GET /x "
        assert await told(whole + whole, answers=2) == b"POST /a%20b hello | POST /a%20b hello"

    asyncio.run(all_of_it())


@pytest.mark.parametrize("line", [b"X: " + b"a" * 4096, b"X: a\r\n" * 700])
def test_a_head_without_end_is_refused_and_not_gathered(line: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\n" + HOST)
        sent = 0
        while not reader.at_eof() and sent < 100 * MAX_HEAD_BYTES:
            try:
                writer.write(line)
                await writer.drain()
                await asyncio.sleep(0)
            except ConnectionError:
                break
            sent += len(line)
        assert sent < 100 * MAX_HEAD_BYTES
        return b""

    asyncio.run(talk(client, Echo()))


def test_a_head_as_large_as_is_allowed_is_one() -> None:
    large = b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (MAX_HEAD_BYTES - 2000) + b"\r\n\r\n"
    assert asyncio.run(talk(sending(large[:1000], large[1000:]), Echo())) == b"GET / "


@pytest.mark.parametrize(
    ("said", "answer"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nX: ", b"HTTP/1.1 408 Request Timeout")],
)
def test_who_asks_nothing_or_never_ends_asking_is_let_go(said: bytes, answer: bytes) -> None:
    made: list[Heads] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(said)
        while not made or made[0]._in_head is not bool(said):
            await asyncio.sleep(0.001)
        assert made[0]._clock is not None  # it would call this
        made[0]._late()
        return await reader.read()

    assert asyncio.run(talk(client, Echo(), made)).partition(b"\r\n")[0] == answer


def test_a_line_break_between_two_requests_keeps_no_connection_for_ever() -> None:
    made: list[Heads] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert await one(reader) == b"GET / "
        assert made[0].timeout_keep_alive_task is not None
        assert made[0]._clock is None
        made[0].data_received(b"\r\n")
        assert made[0]._clock is not None
        made[0]._late()
        return await reader.read()

    assert asyncio.run(talk(client, Echo(), made)) == b""


def test_an_answer_that_takes_long_is_waited_for_whatever_comes_after_its_request() -> None:
    made: list[Heads] = []

    async def run() -> None:
        app = Echo()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            writer.write(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
            await app.begun.wait()
            writer.write(b"GET /half HTTP/1.1\r\n")
            while not made[0]._in_head:
                await asyncio.sleep(0.001)
            made[0]._late()
            app.go.set()
            return await reader.read()

        said = await talk(client, app, made)
        assert said.count(b"HTTP/1.1") == 1
        assert said.endswith(b"GET /slow ")

    asyncio.run(run())
