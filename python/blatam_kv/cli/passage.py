"""The demo's way through the gateway: a hit, and a system that is not there."""

from __future__ import annotations

import json
import socket
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from blatam_kv.cli.remote import connect
from blatam_kv.cli.started import DemoFailed, gateway
from blatam_kv.config import load

_TIMES = 20


@dataclass(frozen=True, slots=True)
class Passed:
    """Milliseconds of a hit, directly and through the gateway; what it says of the absent system."""

    direct_ms: float
    through_ms: float
    absent: str


def show(url: str, query: dict[str, object], config: Path | None, data_dir: Path) -> Passed:
    """A cached query over and over, both ways in turn. Raises DemoFailed."""
    settings = load(file=config, flags={"data_dir": data_dir})
    with socket.socket() as nobody:  # bound, so that nobody else listens there, and not listening
        nobody.bind(("127.0.0.1", 0))
        systems = {"bul": url, "gamma": f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        with (
            gateway(systems, data_dir=data_dir) as front,
            connect(url, settings) as direct,
            connect(f"{front}/api/v1/bul", settings) as through,
            connect(f"{front}/api/v1/gamma", settings) as absent,
        ):
            times: dict[str, list[float]] = {"direct": [], "through": []}
            for _ in range(_TIMES):
                for name, client in (("direct", direct), ("through", through)):
                    start = time.perf_counter()
                    reply = client.request("POST", "/query", query)
                    times[name].append(1000 * (time.perf_counter() - start))
                    if "; hit" not in reply.headers.get("Cache-Status", ""):
                        raise DemoFailed(f"through the gateway a hit came as {reply.status}")
            problem = json.loads(absent.request("GET", "/").content)
    return Passed(
        statistics.median(times["direct"]),
        statistics.median(times["through"]),
        f"{problem['status']}: {problem['detail']}",
    )


def summary(passed: Passed) -> dict[str, object]:
    """For ``--json``."""
    return {
        "gateway": {
            "hit_ms": passed.through_ms,
            "hit_directly_ms": passed.direct_ms,
            "absent_system": passed.absent,
        }
    }


def line(passed: Passed) -> str:
    """For people."""
    return (
        f"\nthrough the gateway: hit {passed.through_ms:.2f} ms ({passed.direct_ms:.2f} directly); of "
        f"a system that is not there it says {passed.absent}"
    )
