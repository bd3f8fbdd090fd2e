"""``devices``: this machine's GPUs, what they are doing and which would take the next work."""

from __future__ import annotations

from contextlib import ExitStack

from blatam_kv.cli.report import show
from blatam_kv.cuda.probe import status
from blatam_kv.devices import Balancer, NvmlMonitor
from blatam_kv.errors import DeviceUnavailable, MissingExtra


def devices(*, as_json: bool, monitor: NvmlMonitor | None = None) -> int:
    """Print the report. A machine without a GPU is well, and says why it has none."""
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
            balancer = Balancer(watched)
            report["gpus"] = [
                {
                    "gpu": gpu.gpu,
                    "name": watched.name(gpu.gpu),
                    "healthy": gpu.healthy,
                    "utilization": gpu.utilization,
                    "used_bytes": gpu.used_bytes,
                    "total_bytes": gpu.total_bytes,
                }
                for gpu in balancer.snapshots()
            ]
            report["next"] = balancer.choose(0).gpu
        except (DeviceUnavailable, MissingExtra) as error:
            report["reason"] = str(error)
    show(report, as_json=as_json)
    return 0
