"""Requests to where a caller says: never into our own network, never further than told, in time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.bul.outbound import Outbound, Undelivered, _hang_up, is_public, target
from blatam_kv.errors import InvalidRequest

OWN = ("127.0.0.0/8",)
Connection = Callable[[socket.socket], None]


@contextmanager
def listening(answer: Connection) -> Iterator[str]:
    """A server on this machine that treats each connection so; its URL."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(30)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    answer(connection)
                except OSError:  # the client hung up
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/done?x=1"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def says(text: bytes, heard: list[bytes] | None = None) -> Connection:
    def answer(connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request or not request.endswith(b"bread"):
            more = connection.recv(65536)
            if not more:
                return
            request += more
        if heard is not None:
            heard.append(request)
        connection.sendall(text)

    return answer


def fixed(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda host, port: addresses


# ---- where to -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "done",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "http://",
        "http:///x",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://user@example.org/",
        "http://user:secret@example.org/",
        "http://example.org/#part",
        "http://example.org/a b",
        "http://example.org/\r\nX: y",
        "http://exämple.org/",
        "http://example.org/" + "x" * 2000,
    ],
)
def test_what_is_no_url_to_call_is_refused_with_the_fix(url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL"):
        target(url)
    with pytest.raises(InvalidRequest):
        Outbound().check(url, field="callback_url")


def test_a_url_is_taken_apart() -> None:
    assert target("https://example.org").port == 443
    parts = target("http://EXAMPLE.org:8080/a/b?c=d&e")
    assert (parts.secure, parts.host, parts.port) == (False, "example.org", 8080)
    assert parts.path == "/a/b?c=d&e"
    Outbound().check("https://example.org/", field="x")


PRIVATE = """
    0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 192.0.0.1
    192.168.1.1 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 192.0.2.1 203.0.113.1
    :: ::1 fe80::1 fc00::1 fd12:3456::1 ff02::1 fec0::1 2001:db8::1 ::ffff:127.0.0.1
    ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b:1::1 2002:7f00:1:: 2001:0:1::
""".split()


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_the_internet_is_never_called(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(InvalidRequest, match="not a public address"):
        Outbound().check(f"http://{host}/", field="callback_url")
    with pytest.raises(Undelivered, match="not at a public address") as caught:
        Outbound(resolve=fixed(address)).post("http://example.org/", b"", {})
    assert caught.value.final


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"]
)
def test_the_internet_is(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.integers(0, 2**32 - 1))
def test_no_private_address_hides_in_another_form(number: int) -> None:
    plain = ip_address(number)
    mapped = ip_address(f"::ffff:{plain}")
    assert is_public(mapped) == is_public(plain)
    if any(plain in ip_network(text) for text in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16")):
        assert not is_public(plain)


def test_one_private_address_among_public_ones_is_enough() -> None:
    outbound = Outbound(resolve=fixed("1.1.1.1", "10.0.0.1"))
    with pytest.raises(Undelivered, match="public"):
        outbound.post("http://example.org/", b"", {})


def test_a_name_is_resolved_once_and_the_connection_goes_where_it_meant_then() -> None:
    heard: list[bytes] = []
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        # Who asks a second time is told another address.
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    with listening(says(b"HTTP/1.1 204 No Content\r\n\r\n", heard)) as url:
        named = url.replace("127.0.0.1", "example.org")
        Outbound(OWN, resolve=resolve).post(named, b"bread", {"X-Id": "7"})
    assert asked == ["example.org"]
    (request,) = heard
    assert request.startswith(b"POST /done?x=1 HTTP/1.1\r\nHost: example.org:")
    assert b"X-Id: 7\r\n" in request
    assert request.endswith(b"\r\n\r\nbread")


def test_a_network_that_is_allowed_is_called_and_no_other() -> None:
    Outbound(OWN).check("http://127.0.0.1/", field="x")
    Outbound(OWN).check("http://[::ffff:127.0.0.1]/", field="x")
    with pytest.raises(InvalidRequest):
        Outbound(OWN).check("http://10.0.0.1/", field="x")


# ---- what comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "final"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n", "not followed", False),
        (b"HTTP/1.1 307 T\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "not followed", False),
        (b"HTTP/1.1 500 No\r\n\r\n", "answered 500", False),
        (b"HTTP/1.1 410 Gone\r\n\r\n", "answered 410", True),
        (b"hello\r\n", "BadStatusLine", False),
        (b"", "RemoteDisconnected", False),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n", "HTTPException", False),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, "LineTooLong", False),
    ],
)
def test_what_is_not_taken_says_why(answer: bytes, reason: str, final: bool) -> None:
    with listening(says(answer)) as url, pytest.raises(Undelivered, match=reason) as caught:
        Outbound(OWN).post(url, b"bread", {})
    assert caught.value.final is final


def test_the_body_of_an_answer_is_not_waited_for() -> None:
    hold = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        hold.wait(30)

    with listening(answer) as url:
        Outbound(OWN).post(url, b"bread", {})
        hold.set()


@pytest.mark.parametrize("drip", [False, True])
def test_who_hangs_or_drips_is_hung_up_on(drip: bool) -> None:
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.01):
            connection.sendall(b"x" if drip else b"")

    with listening(answer) as url:
        try:
            with pytest.raises(Undelivered, match="took longer than"):
                Outbound(OWN, total_seconds=0.2).post(url, b"bread", {})
        finally:
            over.set()


def test_who_drips_a_handshake_is_hung_up_on() -> None:
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\x16\x03\x03\x3f\xff")  # a record of 16 KiB, of which a little comes
        while not over.wait(0.01):
            connection.sendall(b"\x02")

    with listening(answer) as url:
        secure = url.replace("http://", "https://")
        try:
            with pytest.raises(Undelivered, match="took longer than"):
                Outbound(OWN, total_seconds=0.2).post(secure, b"bread", {})
        finally:
            over.set()


def test_who_is_hung_up_on_while_it_ends_is_no_trouble() -> None:
    """The clock strikes, and sees the socket, just before the other thread has closed it."""

    with socket.socket() as open_one:
        looks: list[socket.socket | None] = [None, open_one]

        class Ending:
            sock = property(lambda connection: looks.pop())

        late = threading.Event()
        _hang_up(Ending(), late)  # type: ignore[arg-type]  # all that is asked of a connection
    assert late.is_set()


def test_nobody_there_and_no_such_name_are_told() -> None:
    with listening(says(b"")) as url:
        pass
    with pytest.raises(Undelivered, match="cannot be reached"):
        Outbound(OWN).post(url, b"", {})

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(Undelivered, match=r"cannot be resolved \(Name or service not known\)"):
        Outbound(resolve=unknown).post("http://example.org/", b"", {})
    with pytest.raises(Undelivered, match="has no address"):
        Outbound(resolve=fixed()).post("http://example.org/", b"", {})


def test_a_server_without_its_certificate_is_not_believed() -> None:
    with listening(lambda connection: connection.sendall(b"\x15\x03\x01\x00\x02\x02\x28")) as url:
        secure = url.replace("http://", "https://")
        with pytest.raises(Undelivered):
            Outbound(OWN).post(secure, b"bread", {})
