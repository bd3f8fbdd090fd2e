"""Hostile bytes on a real socket: the right status, nothing kept, no trace, and the next one works."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_server_process import serving

from blatam_kv.bul.security import open_keys
from blatam_kv.client import Client
from blatam_kv.config import Settings
from blatam_kv.signature import sign

GOOD = json.dumps({"query": "Plan de negocio", "max_length": 40}).encode()


class Target:
    """A running service, the address to attack, and a key that is good."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        parts = urlsplit(client.url)
        self.address = (parts.hostname or "", parts.port or 0)
        keys = open_keys(replace(Settings(), data_dir=folder))
        made = keys.create("acme")
        self.key, self.key_id, self.signing_key = made.api_key, made.key.key_id, made.signing_key

    def send(self, *pieces: bytes, half: bool = False) -> bytes:
        """Raw bytes, and all that comes back. half: close our side after the last.

        Who is answered before having said everything may find the connection closed.
        """
        found = b""
        with (
            socket.create_connection(self.address, timeout=120) as connection,
            suppress(ConnectionResetError, BrokenPipeError, OSError),
        ):
            for piece in pieces:
                connection.sendall(piece)
            if half:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                found += piece
        return found

    def post(self, body: bytes, *headers: str, path: str = "/query", length: bool = True) -> bytes:
        """A POST with the good key."""
        lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{self.address[1]}", "Connection: close"]
        lines += [f"X-API-Key: {self.key}", *headers]
        if length:
            lines.append(f"Content-Length: {len(body)}")
        return self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    with serving(data_dir=folder) as (process, client):
        yield Target(client, folder)
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


@pytest.fixture(autouse=True)
def unharmed(target: Target) -> Iterator[None]:
    before = target.client.request("GET", "/stats").json()["total_tasks"]
    yield
    assert target.client.request("GET", "/stats").json()["total_tasks"] == before


def status(response: bytes) -> int:
    if not response:
        return 0
    assert response.startswith(b"HTTP/1.1 "), response[:200]
    assert b"Traceback" not in response
    assert b'File "' not in response
    return int(response[9:12])


JSON = "Content-Type: application/json"


@pytest.mark.parametrize(
    ("body", "headers", "wanted"),
    [
        (b"x" * (1 << 20) + b"x", [JSON], 413),
        (b"{" * 20_000, [JSON], 400),
        (b'{"query":' + b"[" * 200 + b"]" * 200 + b"}", [JSON], 400),
        (b'{"query": "\\ud800"}', [JSON], 400),
        (b'{"query": "\xff\xfe"}', [JSON], 400),
        (b'{"query": NaN}', [JSON], 400),
        (b"\x00" * 100, [JSON], 400),
        (b"", [JSON], 400),
        (gzip.compress(b"0" * (10 << 20)), [JSON, "Content-Encoding: gzip"], 415),
        (GOOD, [], 415),
        (GOOD, ["Content-Type: text/plain"], 415),
        (GOOD, [JSON, "Host: evil.example"], 421),
        (GOOD, [JSON, "Origin: https://evil.example"], 403),
        (GOOD, [JSON, "X-API-Key: bkv_another"], 401),
        (GOOD, [JSON, "Authorization: Bearer bkv_another"], 401),
        (b'{"query": "x", "query_": 1}', [JSON], 422),
        (b'{"query": 1e400}', [JSON], 400),
        (b'{"query": "x", "seed": 99999999999999999999999999}', [JSON], 422),
        (b'{"query": "' + "\u202e".encode() * 20 + b'"}', [JSON], 422),
    ],
)
def test_a_bad_request_has_its_status(
    target: Target, body: bytes, headers: list[str], wanted: int
) -> None:
    response = target.post(body, *headers)
    assert status(response) == wanted or (wanted == 413 and response == b"")


def test_a_body_that_never_ends_is_not_waited_for_in_memory(target: Target) -> None:
    head = (
        f"POST /query HTTP/1.1\r\nConnection: close\r\nHost: 127.0.0.1:{target.address[1]}\r\nX-API-Key: {target.key}\r\n"
        f"{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    response = target.send(head.encode(), *[chunk] * 17)
    assert response == b"" or status(response) == 413


def test_a_body_that_stops_half_way_leaves_nothing(target: Target) -> None:
    head = f"POST /query HTTP/1.1\r\nConnection: close\r\nHost: 127.0.0.1:{target.address[1]}\r\nX-API-Key: {target.key}\r\n"
    response = target.send(
        f"{head}{JSON}\r\nContent-Length: 500\r\n\r\n".encode() + GOOD, half=True
    )
    assert response == b"" or status(response) == 400


def test_a_body_that_dawdles_is_given_up(target: Target) -> None:
    head = f"POST /query HTTP/1.1\r\nConnection: close\r\nHost: 127.0.0.1:{target.address[1]}\r\nX-API-Key: {target.key}\r\n"
    response = target.send(f"{head}{JSON}\r\nContent-Length: 500\r\n\r\n".encode(), b"{")
    assert status(response) == 408


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /task/..%2f..%2fetc%2fpasswd/documents HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\nabcdef",
        b"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: a\r\n b: c\r\n\r\n",
    ],
)
def test_what_is_hardly_http_ends_in_an_error_or_a_closed_connection(
    target: Target, raw: bytes
) -> None:
    response = target.send(raw, half=True)
    assert response == b"" or 400 <= status(response) < 500 or b"BUL" in response
    assert b"root:" not in response


def test_a_request_id_cannot_bring_headers_of_its_own(target: Target) -> None:
    response = target.post(GOOD[:-1], JSON, "X-Request-ID: x%0d%0aSet-Cookie: a=b")
    assert b"set-cookie" not in response.lower()


def test_a_signature_sent_twice_is_refused_the_second_time(target: Target) -> None:
    path = "/task/none/status"
    headers = sign("GET", target.client.url + path, key_id=target.key_id, key=target.signing_key)
    host = f"127.0.0.1:{target.address[1]}"
    raw = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{raw}\r\n".encode()
    assert status(target.send(request)) == 404
    assert status(target.send(request)) == 401
