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
        ("in_flight", "Pieces of work given out.", [d.in_flight for d in devices]),
        ("queued_tokens", "Tokens given out and not done.", [d.queued_tokens for d in devices]),
        ("healthy", "1 while it is in the rotation.", [float(d.healthy) for d in devices]),
    ):
        family = GaugeMetricFamily(f"kv_cache_gpu_{name}", text, labels=["gpu"])
        for device, value in zip(devices, values, strict=True):
            if value is not None:
                family.add_metric([device.gpu], value)
        yield family
    failures = CounterMetricFamily("kv_cache_gpu_failures", "Failures of it.", labels=["gpu"])
    for device in devices:
        failures.add_metric([device.gpu], device.failures)
    yield failures
