"""What is told of blocks in the memory of a device, beside what is told of every tier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemorySnapshot:
    """One device's memory for blocks at one moment.

    taken_bytes: of the pool, in use by records and by what moves them. buffers: of pinned memory,
    for each direction; busy: how many of them a copy is under way in, by ``up`` and ``down``; waits:
    how often a copy up found none free. moved_bytes: over the bus, by direction. leaving: records on
    their way to the tier below. loads: into an engine's cache, by what became of them: ``whole``,
    ``part`` of what was asked for, ``refused`` or ``failed``. records: what became of some, by
    ``promoted``, ``spilled``, ``dropped``, ``passed`` and ``foreign``. raw_bytes, encoded_bytes: of
    keys and values, by codec and by ``encode`` or ``decode``.
    """

    taken_bytes: int
    buffers: int
    busy: Mapping[str, int]
    waits: int
    moved_bytes: Mapping[str, int]
    leaving: int
    loads: Mapping[str, int]
    records: Mapping[str, int]
    raw_bytes: Mapping[tuple[str, str], int]
    encoded_bytes: Mapping[tuple[str, str], int]


def of_device_memory(
    told: Sequence[tuple[list[str], DeviceMemorySnapshot]],
) -> Iterator[Metric]:
    """The metrics of some devices, each by the values of store and tier."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    where = ["store", "tier"]
    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    taken = gauge("kv_gpu_pool_taken_bytes", "Of the pool, in use.", labels=where)
    leaving = gauge("kv_gpu_queue_entries", "Records on their way down.", labels=where)
    waits = counter("kv_gpu_staging_waits", "Copies up that found no buffer free.", labels=where)
    each = [*where, "direction"]
    buffers = gauge("kv_gpu_staging_buffers", "Buffers of pinned memory.", labels=each)
    busy = gauge("kv_gpu_staging_busy_buffers", "Those with a copy under way.", labels=each)
    moved = counter("kv_gpu_bus_bytes", "Bytes that went over the bus.", labels=each)
    loads = counter("kv_gpu_loads", "Loads into an engine's cache.", labels=[*where, "outcome"])
    records = counter("kv_gpu_records", "What became of records.", labels=[*where, "event"])
    work = [*where, "codec", "operation"]
    raw = counter("kv_gpu_raw_bytes", "Keys and values, decoded.", labels=work)
    encoded = counter("kv_gpu_encoded_bytes", "The same, encoded.", labels=work)
    for place, now in told:
        taken.add_metric(place, now.taken_bytes)
        leaving.add_metric(place, now.leaving)
        waits.add_metric(place, now.waits)
        for direction in ("up", "down"):
            buffers.add_metric([*place, direction], now.buffers)
            busy.add_metric([*place, direction], now.busy[direction])
            moved.add_metric([*place, direction], now.moved_bytes[direction])
        for family, counts in ((loads, now.loads), (records, now.records)):
            for name, count in counts.items():
                family.add_metric([*place, name], count)
        for family, sizes in ((raw, now.raw_bytes), (encoded, now.encoded_bytes)):
            for (codec, operation), size in sorted(sizes.items()):
                family.add_metric([*place, codec, operation], size)
    yield from (taken, leaving, waits, buffers, busy, moved, loads, records, raw, encoded)
