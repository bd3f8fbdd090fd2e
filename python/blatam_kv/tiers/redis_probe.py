"""Whether a Redis is fit for what nodes share through it: asked by doing it, on names of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from blatam_kv.errors import ConfigError
from blatam_kv.tiers.breaker import Breaker
from blatam_kv.tiers.servers import Server, Servers, place_of, servers_of

# What a user of Redis needs, but for its names; docs/DEPLOY.md says it in one line.
RIGHTS = (
    *("get", "mget", "set", "unlink", "del", "exists", "strlen", "getrange", "scan", "publish"),
    *("subscribe", "unsubscribe", "evalsha", "eval", "pexpire", "pubsub", "time", "ping", "select"),
    *("xadd", "xrange", "xrevrange", "info", "pttl"),
)
# How a server puts it that a script may not.
_IN_SCRIPT = "executing the script can't run"
OLDEST = (5, 0)  # the first with streams
_STREAM = b":drops"
_TRIES = 15
_SLOW_MILLISECONDS = 5.0
_SECONDS = 60_000  # what is put to try it goes away by itself, in milliseconds


@dataclass(frozen=True, slots=True)
class RedisReport:
    """What was found. None: it could not be asked. milliseconds: of a round trip, of the slowest server.
    lacks: rights that the user has not got. reason: why it cannot be used, and what to do. advice: what
    would be better otherwise."""

    place: str
    servers: int = 0
    version: str | None = None
    maxmemory_bytes: int | None = None
    policy: str | None = None
    appendonly: bool | None = None
    milliseconds: float | None = None
    lacks: tuple[str, ...] = ()
    reason: str | None = None
    advice: tuple[str, ...] = ()


class _Unfit(Exception):
    """Why, and what to do."""


def examine(
    url: str,
    setting: str,
    *,
    namespace: str = "blatam-kv",
    drops: bool = True,
    timeout: float = 1.0,
) -> RedisReport:
    """The report on the Redis that a setting's URL leads to. drops: whether it is to remember what was
    dropped. Raises MissingExtra; a URL that cannot be is a reason."""
    try:
        place = place_of(url)
        redis, servers = servers_of(url, timeout, Breaker(failures=100), place=place)
    except ConfigError as error:
        return RedisReport("", reason=f"{error}; correct {setting}")
    found: list[dict[str, Any]] = []
    try:
        with _explained(redis, place, setting):
            every = servers.all()
        for server in every:
            with _explained(redis, server.place, setting):
                found.append(_asked(redis, server, _name_on(servers, server, namespace), namespace))
    except _Unfit as error:
        return RedisReport(place, reason=str(error))
    finally:
        servers.close()
    lacks = tuple(dict.fromkeys(right for each in found for right in each["lacks"]))
    first = found[0]
    return RedisReport(
        place,
        servers=len(found),
        version=first["version"],
        maxmemory_bytes=first["maxmemory"],
        policy=first["policy"],
        appendonly=first["appendonly"],
        milliseconds=round(max(each["milliseconds"] for each in found), 3),
        lacks=lacks,
        reason=_reason(first["version"], lacks, place),
        advice=tuple(_advice(first, drops=drops)),
    )


def _asked(redis: Any, server: Server, name: bytes, namespace: str) -> dict[str, Any]:
    """What one server says of itself, and lets the user do."""
    client, took = server.client, []
    with suppress(redis.exceptions.NoPermissionError):
        client.ping()  # which opens the connection
        for _ in range(_TRIES):
            began = time.perf_counter()
            client.ping()
            took.append(time.perf_counter() - began)
    lacks = []
    for right, call in _trials(client, name, f"{namespace}:notices".encode()):
        try:
            call()
        except redis.exceptions.NoScriptError:
            pass
        except redis.exceptions.NoPermissionError as error:
            lacks.append(_lacking(str(error), right, namespace))
        except redis.exceptions.ResponseError as error:
            if _IN_SCRIPT not in str(error):
                raise
            lacks.append(f"+{right}")
    with suppress(redis.exceptions.ResponseError):  # where one of two ways is not allowed
        client.delete(name, name + _STREAM)
    try:
        said = client.info()
    except redis.exceptions.NoPermissionError:
        said = {}
    return {
        "version": said.get("redis_version"),
        "maxmemory": said.get("maxmemory"),
        "policy": said.get("maxmemory_policy"),
        "appendonly": bool(said["aof_enabled"]) if "aof_enabled" in said else None,
        "milliseconds": 1e3 * statistics.median(took) if took else 0.0,
        "lacks": lacks,
    }


def _trials(client: Any, name: bytes, channel: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each right, and a call that needs it; in an order in which they leave nothing behind."""
    stream = name + _STREAM
    inside = "return redis.call('{}')"
    expire = "redis.call('PEXPIRE', KEYS[1], 1) return 1"
    left = "return redis.call('PTTL', KEYS[1])"

    def subscribe(*, leave: bool = False) -> None:
        subscription = client.pubsub()
        try:
            subscription.subscribe(channel)
            subscription.get_message(timeout=1.0)
            if leave:
                subscription.unsubscribe(channel)
                subscription.get_message(timeout=1.0)
        finally:
            subscription.close()

    yield "set", lambda: client.set(name, b"", px=_SECONDS)
    yield "get", lambda: client.get(name)
    yield "mget", lambda: client.mget(name)
    yield "exists", lambda: client.exists(name)
    yield "strlen", lambda: client.strlen(name)
    yield "getrange", lambda: client.getrange(name, 0, 1)
    yield "evalsha", lambda: client.evalsha("0" * 40, 1, name)
    yield "eval", lambda: client.eval("return 1", 1, name)
    yield "time", lambda: client.eval(inside.format("TIME"), 1, name)
    yield "pexpire", lambda: client.eval(expire, 1, name)
    yield "pttl", lambda: client.eval(left, 1, name)
    yield "del", lambda: client.delete(name)
    yield "xadd", lambda: client.xadd(stream, {b"": b""})
    yield "xrange", lambda: client.xrange(stream, count=1)
    yield "xrevrange", lambda: client.xrevrange(stream, count=1)
    yield "unlink", lambda: client.unlink(stream)
    yield "scan", lambda: client.scan(0, match=name, count=1)
    yield "publish", lambda: client.publish(channel, b"")
    yield "subscribe", subscribe
    yield "unsubscribe", partial(subscribe, leave=True)
    yield "pubsub", lambda: client.pubsub_numsub(channel)
    yield "ping", lambda: client.ping()


def _lacking(said: str, right: str, namespace: str) -> str:
    """The right that a refusal speaks of, as ACL SETUSER takes it."""
    if " key" in said:
        return f"~{namespace.partition(':')[0]}:*"
    if "channel" in said:
        return f"&{namespace.partition(':')[0]}:*"
    return f"+{right}"


def _name_on(servers: Servers, server: Server, namespace: str) -> bytes:
    """A name that this server has, and all that begin with it."""
    names = (f"{namespace}:doctor{{{number}}}".encode() for number in count())
    return next(name for name in names if servers.of(name) is server)


def _reason(version: str | None, lacks: tuple[str, ...], place: str) -> str | None:
    if version is not None:
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            return f"{place} is version {version}; streams need {oldest} or newer: upgrade it"
    if lacks:
        rights = " ".join(lacks)
        return f"its user lacks {rights}; on {place} run: ACL SETUSER USER {rights}"
    return None


def _advice(found: dict[str, Any], *, drops: bool) -> Iterator[str]:
    policy, bound = found["policy"], found["maxmemory"]
    if policy is None:
        yield "the user may not ask for its memory policy; +info allows that"
    elif not bound:
        yield "it grows without a bound: CONFIG SET maxmemory, and maxmemory-policy volatile-lfu"
    elif policy == "noeviction":
        yield "when it is full it takes nothing new: CONFIG SET maxmemory-policy volatile-lfu"
    elif drops and policy.startswith("allkeys"):
        yield (
            f"with {policy} it may evict what it remembers of drops, and every node then forgets its "
            "answers: CONFIG SET maxmemory-policy volatile-lfu"
        )
    if drops and found["appendonly"] is False:
        yield "a restart empties it, and every node then forgets its answers: CONFIG SET appendonly yes"
    if found["milliseconds"] > _SLOW_MILLISECONDS:
        yield (
            f"a round trip takes {found['milliseconds']:.1f} ms, and so does every miss: put it nearer"
        )


@contextmanager
def _explained(redis: Any, place: str, setting: str) -> Iterator[None]:
    """What redis-py raises as a reason with its remedy. Its own words may hold a password."""
    exceptions = redis.exceptions
    try:
        yield
    except exceptions.AuthenticationError:
        reason = (
            f"does not take this user and password; correct {setting}, or on the server ACL SETUSER"
        )
    except exceptions.TimeoutError:
        reason = "does not answer in time; it is busy, or a firewall is in between"
    except exceptions.MovedError:
        reason = f"is part of a cluster; write redis+cluster:// in {setting}"
    except exceptions.ReadOnlyError:
        reason = f"is a replica; write the address of its master in {setting}"
    except exceptions.OutOfMemoryError:
        reason = "is full; raise its maxmemory, or CONFIG SET maxmemory-policy volatile-lfu"
    except exceptions.ClusterDownError:
        reason = "says that the cluster is down; redis-cli --cluster check tells why"
    except exceptions.BusyLoadingError:
        reason = "is still reading its memory from disk; ask again in a moment"
    except exceptions.NoPermissionError:  # all else is asked so that a refusal is an answer
        reason = "does not say where slots are; on it run: ACL SETUSER USER +cluster|slots"
    except exceptions.ResponseError as error:
        word = str(error).split(" ", 1)[0]
        if "cluster support disabled" in str(error):
            reason = f"is no cluster; write redis:// in {setting}"
        elif word in ("NOAUTH", "WRONGPASS"):
            reason = f"wants a user and a password; write redis://user:password@… in {setting}"
        else:
            reason = f"refuses what nodes need of it ({word})"
    except (exceptions.RedisError, OSError):
        reason = f"cannot be reached; start it, or correct {setting}"
    else:
        return
    raise _Unfit(f"{place} {reason}")
