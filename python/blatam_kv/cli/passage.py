"""The demo's way through the gateway: a hit, a question to each of the other systems, and one that is
not there.

Only BUL is part of this project. The sample of ``examples/`` stands in for the others, a process each.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blatam_kv.cli.remote import connect
from blatam_kv.cli.started import DemoFailed, gateway, sample, samples_are_here
from blatam_kv.client import Client
from blatam_kv.config import load

OTHERS = ("content-redundancy", "gamma", "business-agents", "export-ia")
ABSENT = "nobody"
_TIMES = 20


@dataclass(frozen=True, slots=True)
class Passed:
    """Milliseconds of a hit, directly and through the gateway, and of a question to each of the other
    systems, none where the sample is not installed; what it says of the absent one."""

    direct_ms: float
    through_ms: float
    others_ms: Mapping[str, float]
    absent: str


def show(url: str, query: dict[str, object], config: Path | None, data_dir: Path) -> Passed:
    """A cached query over and over, both ways in turn, then every other system. Raises DemoFailed."""
    settings = load(file=config, flags={"data_dir": data_dir})
    with ExitStack() as stack:
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # so that nobody else listens there, and not listening
        systems = {"bul": url, ABSENT: f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        others = OTHERS if samples_are_here() else ()
        systems |= {name: stack.enter_context(sample(name)) for name in others}
        front = stack.enter_context(gateway(systems, data_dir=data_dir))
        direct = stack.enter_context(connect(url, settings))
        through = stack.enter_context(connect(f"{front}/api/v1/bul", settings))
        own = stack.enter_context(connect(front, settings))
        times = _hits({"direct": direct, "through": through}, query)
        return Passed(
            statistics.median(times["direct"]),
            statistics.median(times["through"]),
            {name: statistics.median(_asked(own, name)) for name in others},
            _absence(own),
        )


def _hits(clients: Mapping[str, Client], query: dict[str, object]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(_TIMES):
        for name, client in clients.items():
            times[name].append(_milliseconds(partial(_hit, client, query)))
    return times


def _hit(client: Client, query: dict[str, object]) -> None:
    reply = client.request("POST", "/query", query)
    if "; hit" not in reply.headers.get("Cache-Status", ""):
        raise DemoFailed(f"through the gateway a hit came as {reply.status}")


def _asked(client: Client, name: str) -> list[float]:
    """A system asked by its name, each time something else, and it must say that it was."""

    def ask(number: int) -> None:
        wanted = {"target_system": name, "endpoint": f"/plan/{number}", "method": "GET"}
        said = client.request("POST", "/api/v1/gateway/route", wanted).json("name", "path")
        if (said["name"], said["path"]) != (name, f"/plan/{number}"):
            raise DemoFailed(f"{name} was asked by its name, and {said['name']} answered")

    return [_milliseconds(partial(ask, number)) for number in range(_TIMES)]


def _absence(client: Client) -> str:
    problem = json.loads(client.request("GET", f"/api/v1/{ABSENT}/").content)
    return f"{problem['status']}: {problem['detail']}"


def _milliseconds(do: Callable[[], None]) -> float:
    start = time.perf_counter()
    do()
    return 1000 * (time.perf_counter() - start)


def summary(passed: Passed) -> dict[str, object]:
    """For ``--json``."""
    return {
        "gateway": {
            "hit_ms": passed.through_ms,
            "hit_directly_ms": passed.direct_ms,
            "systems_ms": dict(passed.others_ms),
            "absent_system": passed.absent,
        }
    }


def table(passed: Passed) -> str:
    """For people."""
    lines: Sequence[tuple[str, str]] = [
        ("bul", f"hit {passed.through_ms:.2f} ms, {passed.direct_ms:.2f} directly"),
        *((name, f"asked by name {ms:.2f} ms") for name, ms in passed.others_ms.items()),
        (ABSENT, passed.absent),
    ]
    note = "the sample system in the places of those that are not ours, and one that is not there"
    if not passed.others_ms:
        note = "without the other systems: their sample is in examples/ of the source"
    return f"\nthrough the gateway ({note}):\n" + "\n".join(
        f"  {name:<20} {said}" for name, said in lines
    )
