"""Which Redis server has a key: the one there is, or of a cluster the one that has its slot.

``redis://``, ``rediss://`` and ``unix://`` lead to one server; ``redis+cluster://`` and
``rediss+cluster://`` to any node of a cluster, several with commas between them. Each server has a
connection pool and a breaker of its own, so that one that is away costs the keys that are there and
no others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from blatam_kv.errors import ConfigError, MissingExtra
from blatam_kv.tiers.breaker import Breaker

if TYPE_CHECKING:
    from types import ModuleType

_SCHEMES = ("redis", "rediss", "unix")
_CLUSTER = "+cluster"
# Where the slots are is asked again after a failure, but not more often than this.
_ASK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Server:
    """One server. client: redis-py's, without a connection as yet. Any: redis-py types its answers
    for every protocol and for coroutines at once."""

    place: str
    client: Any
    breaker: Breaker


class Servers(Protocol):
    """All of them. Safe from any thread."""

    one: bool
    """Whether there is a single one, which may be asked for any keys together."""

    def of(self, key: bytes) -> Server:
        """The one that has a key. May ask the network, and raise what redis-py does."""
        ...

    def all(self) -> list[Server]:
        """Those that have any; may ask and raise too."""
        ...

    def at(self, host: str, port: int, *, near: Server) -> Server:
        """The one at an address that another said; where it names no host it meant its own."""
        ...

    def doubt(self, *, now: bool = False) -> None:
        """One failed: look again where keys are, now if it said that a key is elsewhere."""
        ...

    @property
    def left_alone(self) -> bool:
        """Whether any is."""
        ...

    def close(self) -> None:
        """Let go of all connections."""
        ...


class Single:
    """One server; see ``Servers``."""

    one = True

    def __init__(self, server: Server) -> None:
        self._server = server

    def of(self, key: bytes) -> Server:
        """It."""
        return self._server

    def all(self) -> list[Server]:
        """It."""
        return [self._server]

    def at(self, host: str, port: int, *, near: Server) -> Server:
        """It."""
        return self._server

    def doubt(self, *, now: bool = False) -> None:
        """There is no other."""

    @property
    def left_alone(self) -> bool:
        """Whether it is."""
        return self._server.breaker.open

    def close(self) -> None:
        """Let go of its connections."""
        self._server.client.close()


class Cluster:
    """The masters of a Redis Cluster; see ``Servers``.

    seeds: where to ask first, (host, port). connect: a client for such an address. breaker: what each
    server's is like. Replicas are not read from: they may be behind, and a cache has nothing to gain
    that is worth an answer that was dropped. clock: seconds that never go back.
    """

    one = False

    def __init__(
        self,
        seeds: list[tuple[str, int]],
        connect: Callable[[str, int], Any],
        breaker: Breaker,
        redis: ModuleType,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from redis.crc import key_slot

        self._seeds, self._connect, self._breaker = seeds, connect, breaker
        self._errors = (redis.exceptions.RedisError, OSError)
        self._slot_of: Callable[[bytes], int] = key_slot
        self._clock = clock
        self._lock = threading.Lock()  # one asks at a time; guards what follows
        self._known: dict[tuple[str, int], Server] = {}
        self._slots: Mapping[int, Server] = {}
        self._masters: list[Server] = []
        self._doubted = True
        self._asked = float("-inf")

    def of(self, key: bytes) -> Server:
        """The master of the key's slot. Raises redis-py's errors where nobody says which that is."""
        slots = self._current()
        server = slots.get(self._slot_of(key))
        if server is None:
            raise self._errors[0]("a slot of the cluster belongs to no server")
        return server

    def all(self) -> list[Server]:
        """Every master."""
        self._current()
        return self._masters

    def at(self, host: str, port: int, *, near: Server) -> Server:
        """See ``Servers``."""
        with self._lock:
            own = next(
                (known for known, server in self._known.items() if server is near), (host, port)
            )
            return self._server((host or own[0], port))

    def doubt(self, *, now: bool = False) -> None:
        """Ask again, now or soon."""
        self._doubted = True
        if now:
            self._asked = float("-inf")

    @property
    def left_alone(self) -> bool:
        """Whether any master is."""
        return any(server.breaker.open for server in self._masters)

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            for server in self._known.values():
                server.client.close()

    def _current(self) -> Mapping[int, Server]:
        # Who knows something goes on with it while another one asks.
        if self._due() and self._lock.acquire(blocking=not self._slots):
            try:
                if self._due():
                    self._ask()
            finally:
                self._lock.release()
        return self._slots

    def _due(self) -> bool:
        return self._doubted and self._clock() - self._asked >= _ASK_SECONDS

    def _ask(self) -> None:
        """Ask one after the other where slots are; with the lock held. What was known stays where none
        answers, and the error is raised where nothing was."""
        refused: Exception | None = None
        for address in dict.fromkeys((*self._known, *self._seeds)):
            server = self._server(address)
            if not server.breaker.allows():
                continue
            try:
                ranges = server.client.execute_command("CLUSTER SLOTS")
            except self._errors as error:
                server.breaker.failed()
                refused = error
                continue
            server.breaker.succeeded()
            slots: dict[int, Server] = {}
            for first, last, (host, port, *_), *_ in ranges:
                master = self._server(((host or b"").decode() or address[0], port))
                slots |= dict.fromkeys(range(first, last + 1), master)
            self._masters = list({id(master): master for master in slots.values()}.values())
            self._slots = slots
            self._doubted = False
            break
        if self._slots:
            self._asked = self._clock()
        elif refused is not None:
            raise refused

    def _server(self, address: tuple[str, int]) -> Server:
        found = self._known.get(address)
        if found is None:
            host, port = address
            found = Server(
                f"redis at {host}:{port}", self._connect(host, port), self._breaker.like()
            )
            self._known[address] = found
        return found


def place_of(url: str) -> str:
    """Where a URL leads, without what it says of users and passwords. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        scheme = parts.scheme.removesuffix(_CLUSTER)
        hosts = _hosts(parts.netloc) if scheme != "unix" else []
    except ValueError:
        scheme, hosts = "", []
    cluster = parts.scheme != scheme if scheme else False
    ok = bool(parts.path) if scheme == "unix" else bool(hosts) and (cluster or len(hosts) == 1)
    if scheme not in _SCHEMES or not ok or (cluster and scheme == "unix"):
        raise ConfigError(
            "the URL of Redis must look like redis://user:password@host:6379/0, rediss://… for TLS, "
            "unix:///path/to/socket, or redis+cluster://host:6379,host2:6379 for a cluster"
        )
    if scheme == "unix":
        return f"unix://{parts.path}"
    where = ", ".join(f"{host}:{port}" for host, port in hosts)
    return f"redis cluster at {where}" if cluster else f"redis at {where}"


def servers_of(
    url: str, timeout: float, breaker: Breaker, *, place: str
) -> tuple[ModuleType, Servers]:
    """redis-py, and the servers that a URL leads to; as yet without a connection.

    Raises ConfigError, MissingExtra.
    """
    try:
        import redis
    except ImportError as error:
        raise MissingExtra("redis", extra="redis") from error
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    def connect(url: str) -> Any:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # One more try where a kept connection was closed; redis-py's default waits for seconds.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,)),
            retry_on_timeout=False,
            protocol=2,
        )

    parts = urlsplit(url)
    try:
        if not parts.scheme.endswith(_CLUSTER):
            return redis, Single(Server(place, connect(url), breaker))
        scheme, (users, at, _) = parts.scheme.removesuffix(_CLUSTER), parts.netloc.rpartition("@")

        def connect_to(host: str, port: int) -> Any:
            name = f"[{host}]" if ":" in host else host
            return connect(urlunsplit((scheme, f"{users}{at}{name}:{port}", "", parts.query, "")))

        seeds = _hosts(parts.netloc)
        connect_to(*seeds[0])  # what cannot be right is said now
        return redis, Cluster(seeds, connect_to, breaker, redis)
    except (ValueError, TypeError) as error:
        raise ConfigError("an option of the Redis URL cannot be right") from error


def _hosts(netloc: str) -> list[tuple[str, int]]:
    """The addresses in a URL. Raises ValueError."""
    found = []
    for each in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{each}")
        if not parts.hostname:
            return []
        found.append((parts.hostname, parts.port or 6379))
    return found
