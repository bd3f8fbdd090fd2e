"""What Prometheus reads of each GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from blatam_kv.devices.reading import DeviceSnapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def of_gpus(devices: Sequence[DeviceSnapshot]) -> Iterator[Metric]:
    """The metrics of some GPUs; one that cannot be read has no utilisation rather than zero."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, text, values in (
        ("utilization_ratio", "Share of time busy, smoothed.", [d.utilization for d in devices]),
        ("memory_used_bytes", "Memory in use.", [d.used_bytes for d in devices]),
        ("memory_bytes", "Memory there is.", [d.total_bytes for d in devices]),
        ("temperature_celsius", "Of the core.", [d.temperature_celsius for d in devices]),
        ("power_watts", "What it draws.", [d.power_watts for d in devices]),
        ("in_flight", "Pieces of work given out and not done.", [d.in_flight for d in devices]),
        ("in_flight_tokens", "Tokens left of work begun.", [d.in_flight_tokens for d in devices]),
        ("queued_tokens", "Tokens of work not begun.", [d.queued_tokens for d in devices]),
        ("in_rotation", "1 while it is given work.", [float(d.in_rotation) for d in devices]),
    ):
        family = GaugeMetricFamily(f"kv_cache_gpu_{name}", text, labels=["gpu"])
        for device, value in zip(devices, values, strict=True):
            if value is not None:
                family.add_metric([device.gpu], value)
        yield family
    for name, text, counts in (
        ("routed", "Pieces of work given to it.", [d.routed for d in devices]),
        ("saved_tokens", "Tokens of them that it had already.", [d.saved_tokens for d in devices]),
        ("failures", "Failures of it.", [d.failures for d in devices]),
        ("unread", "Looks at it in vain.", [d.unread for d in devices]),
    ):
        counter = CounterMetricFamily(f"kv_cache_gpu_{name}", text, labels=["gpu"])
        for device, count in zip(devices, counts, strict=True):
            counter.add_metric([device.gpu], count)
        yield counter
