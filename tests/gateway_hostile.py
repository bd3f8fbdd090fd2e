"""A system that misbehaves, each path in its own way; run as a process of its own.

python tests/gateway_hostile.py      prints its URL, serves until killed
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

OK = b"HTTP/1.1 200 OK\r\n"
JUNK = b"x" * 65536
closed: list[str] = []  # paths of /once whose connections are closed by now


def answer(connection: socket.socket, path: str) -> bool:
    """Answer one request; whether the connection stays."""
    send = connection.sendall
    match path.partition("?")[0]:
        case "/health":
            send(OK + b"Content-Length: 2\r\n\r\nok")
            return True
        case "/fine":
            send(OK + b"Content-Length: 4\r\n\r\nfine")
            return True
        case "/close-at-once":
            pass
        case "/reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        case "/short":  # says more than it sends
            send(OK + b"Content-Length: 1000\r\n\r\nnot a thousand")
        case "/short-chunked":
            send(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        case "/long":  # sends more than it says
            send(
                OK
                + b"Content-Length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            )
            return True
        case "/two-lengths":
            send(OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nfine!")
        case "/both-framings":
            send(
                OK
                + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"
            )
        case "/not-http":
            send(b"220 smtp.example ESMTP\r\n")
        case "/bad-chunk":
            send(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nfine\r\n0\r\n\r\n")
        case "/endless-header":
            with contextlib.suppress(OSError):
                send(OK + b"X-Endless: ")
                while True:
                    send(JUNK)
        case "/many-headers":
            with contextlib.suppress(OSError):
                send(OK)
                while True:
                    send(b"X-Many: 1\r\n" * 1000)
        case "/upgrade":
            send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        case "/interim":
            send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            send(OK + b"Content-Length: 4\r\n\r\nfine")
            return True
        case "/until-close":
            send(OK + b"Content-Type: text/plain\r\n\r\nall of it")
        case "/silent":
            time.sleep(60)
        case "/stops":
            send(OK + b"Content-Length: 100\r\n\r\nbegins")
            time.sleep(60)
        case "/drips":
            send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(40):
                    send(b"1\r\n.\r\n")
                    time.sleep(0.1)
                send(b"0\r\n\r\n")
        case "/endless":
            with contextlib.suppress(OSError):
                send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
                while True:
                    send(b"10000\r\n" + JUNK + b"\r\n")
        case "/once":  # kept, and closed before the next request
            send(OK + b"Content-Length: 4\r\n\r\nfine")
            time.sleep(0.2)
        case "/closed":
            count = b"%d" % len(closed)
            send(OK + b"Content-Length: %d\r\n\r\n%b" % (len(count), count))
        case "/early":  # answers before it has read the body
            send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge")
            time.sleep(0.2)
        case _:
            send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
    return False


def serve(connection: socket.socket) -> None:
    path = _served(connection)
    if path == "/once":
        closed.append(path)


def _served(connection: socket.socket) -> str:
    """Answer what is asked on a connection, and close it; returns the path that was asked last."""
    path = ""
    with connection, contextlib.suppress(OSError):
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65536)
                if not piece:
                    return path
                data += piece
            head, _, data = data.partition(b"\r\n\r\n")
            path = head.split(b" ")[1].decode("latin-1")
            length = 0
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if path != "/early":
                while len(data) < length:
                    data += connection.recv(65536)
                data = data[length:]
            if not answer(connection, path):
                return path
    return path


def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(f"hostile listens on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
