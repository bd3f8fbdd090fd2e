"""``devices``: the GPUs of this machine, or what a running service's model runs on, and what they do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from blatam_kv.cli.remote import connect
from blatam_kv.cli.report import show
from blatam_kv.config import Settings
from blatam_kv.cuda.probe import status
from blatam_kv.devices import Balancer, NvmlMonitor
from blatam_kv.errors import DeviceUnavailable, InvalidRequest, MissingExtra

_HEAD = (
    f"{'time':<8}  {'device':<20}  {'state':<5}  {'busy':>5}  {'memory':>6}  {'°C':>4}  {'W':>5}  "
    f"{'in flight':>9}  {'tokens':>8}  {'routed':>8}  {'failed':>6}"
)


def devices(*, as_json: bool, monitor: NvmlMonitor | None = None) -> int:
    """Print the report of this machine. One without a GPU is well, and says why it has none."""
    found = status()
    report: dict[str, object] = {
        "kernels": found.reason or f"for {' '.join(found.architectures)}",
        "gpus": [],
        "next": None,
        "reason": None,
    }
    with ExitStack() as opened:
        try:
            watched = monitor or opened.enter_context(NvmlMonitor())
            balancer = _read(watched)
            report["gpus"] = [
                {"gpu": gpu.gpu, "name": watched.name(gpu.gpu)} | _seen(asdict(gpu))
                for gpu in balancer.snapshots()
            ]
            report["next"] = balancer.choose(0).gpu
        except (DeviceUnavailable, MissingExtra) as error:
            report["reason"] = str(error)
    show(report, as_json=as_json)
    return 0


def devices_of(url: str, settings: Settings, *, as_json: bool) -> int:
    """Print what a running service says of its devices. Raises Unreachable, Refused."""
    with connect(url, settings) as client:
        found = client.request("GET", "/api/v1/devices").json("devices")
    show(found if found["devices"] else found | {"reason": _NONE}, as_json=as_json)
    return 0


def watch(
    url: str | None,
    settings: Settings,
    *,
    interval: float,
    count: int | None,
    as_json: bool,
    monitor: NvmlMonitor | None = None,
) -> int:
    """A line for each device every ``interval`` seconds until interrupted, or ``count`` times: of the
    service at ``url``, else of this machine.

    Raises InvalidRequest for an interval that is no time, Unreachable when the service goes away,
    DeviceUnavailable and MissingExtra where there is nothing to watch.
    """
    if not 0.05 <= interval <= 86_400:
        raise InvalidRequest("--interval takes 0.05 to 86,400 seconds", field="interval")
    if count is not None and count < 1:
        raise InvalidRequest("--count takes at least 1", field="count")
    with ExitStack() as opened:
        look: Callable[[], Sequence[dict[str, Any]]]
        if url is None:
            balancer = _read(monitor or opened.enter_context(NvmlMonitor()))

            def look() -> Sequence[dict[str, Any]]:
                balancer.read()
                return [asdict(gpu) for gpu in balancer.snapshots()]

        else:
            client = opened.enter_context(connect(url, settings))

            def look() -> Sequence[dict[str, Any]]:
                found = client.request("GET", "/api/v1/devices").json("devices")
                return list(found["devices"])

        printed = 0
        while True:
            seen = look()
            if not seen:
                raise InvalidRequest(_NONE, field="url")
            if not as_json and printed % 10 == 0:
                print(_HEAD)
            moment = time.strftime("%H:%M:%S")
            for device in seen:
                line = json.dumps({"time": moment} | device) if as_json else _row(moment, device)
                print(line, flush=True)
            printed += 1
            if printed == count:
                return 0
            time.sleep(interval)


_NONE = "its model runs on a CPU or at one endpoint; --devices and several endpoints spread it"


def _read(monitor: NvmlMonitor) -> Balancer:
    balancer = Balancer(monitor)
    balancer.read()
    return balancer


def _seen(device: dict[str, Any]) -> dict[str, object]:
    """What is read of a device; nothing was given out here."""
    names = ("in_rotation", "utilization", "used_bytes", "total_bytes", "temperature_celsius")
    return {name: device[name] for name in (*names, "power_watts")}


def _row(moment: str, device: dict[str, Any]) -> str:
    used, total = device["used_bytes"], device["total_bytes"]
    share = used / total if used is not None and total else None
    given = {"tokens": device["in_flight_tokens"] + device["queued_tokens"], **device}
    if not device["balanced"]:
        given |= dict.fromkeys(("tokens", "in_flight", "routed"), "-")
    return (
        f"{moment}  {device['gpu']:<20}  {'in' if device['in_rotation'] else 'out':<5}  "
        f"{_or_dash(device['utilization'], '.0%'):>5}  {_or_dash(share, '.0%'):>6}  "
        f"{_or_dash(device['temperature_celsius'], '.0f'):>4}  "
        f"{_or_dash(device['power_watts'], '.0f'):>5}  {given['in_flight']:>9}  "
        f"{given['tokens']:>8}  {given['routed']:>8}  {device['failures']:>6}"
    )


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
