"""What Prometheus reads of each GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from blatam_kv.devices.reading import DeviceSnapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_Told = tuple[str, str, Callable[[DeviceSnapshot], float | None]]

_READ: tuple[_Told, ...] = (
    ("utilization_ratio", "Share of time busy, smoothed.", lambda d: d.utilization),
    ("memory_used_bytes", "Memory in use.", lambda d: d.used_bytes),
    ("memory_bytes", "Memory there is.", lambda d: d.total_bytes),
    ("temperature_celsius", "Of the core.", lambda d: d.temperature_celsius),
    ("power_watts", "What it draws.", lambda d: d.power_watts),
    ("in_rotation", "1 while it is given work.", lambda d: float(d.in_rotation)),
)
_GIVEN: tuple[_Told, ...] = (
    ("in_flight", "Pieces of work given out and not done.", lambda d: d.in_flight),
    ("in_flight_tokens", "Tokens left of work begun.", lambda d: d.in_flight_tokens),
    ("queued_tokens", "Tokens of work not begun.", lambda d: d.queued_tokens),
)
_COUNTED: tuple[_Told, ...] = (
    ("failures", "Failures of it.", lambda d: d.failures),
    ("unread", "Looks at it in vain.", lambda d: d.unread),
)
_ROUTED: tuple[_Told, ...] = (
    ("routed", "Pieces of work given to it.", lambda d: d.routed),
    ("saved_tokens", "Tokens of them that it had already.", lambda d: d.saved_tokens),
)


def of_gpus(devices: Sequence[DeviceSnapshot]) -> Iterator[Metric]:
    """The metrics of some GPUs; one that cannot be read has no utilisation rather than zero, and one
    that nobody balances nothing to do rather than none."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    balanced = [device for device in devices if device.balanced]
    for kind, names, told in (
        (GaugeMetricFamily, _READ, devices),
        (GaugeMetricFamily, _GIVEN, balanced),
        (CounterMetricFamily, _COUNTED, devices),
        (CounterMetricFamily, _ROUTED, balanced),
    ):
        for name, text, value_of in names:
            family = kind(f"kv_cache_gpu_{name}", text, labels=["gpu"])
            for device in told:
                if (value := value_of(device)) is not None:
                    family.add_metric([device.gpu], value)
            yield family
