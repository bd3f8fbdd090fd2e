"""What a balancer makes of readings: a mean over time, and which of them it does not believe."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from device_fakes import Machine, balancer
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.devices import Balancer, Devices, Reading
from blatam_kv.devices.reading import Smoothed
from blatam_kv.errors import DeviceUnavailable


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), min_size=1, max_size=30))
def test_smoothing_is_the_weighted_mean_over_time(steps: list[tuple[float, float]]) -> None:
    smoothed = Smoothed(half_life=2.0, stale=10.0)
    now, mean = 50.0, None
    for gap, utilization in steps:
        now += gap
        kept = 0.5 ** (gap / 2.0)
        mean = utilization if mean is None else kept * mean + (1 - kept) * utilization
        smoothed.add(Reading(utilization=utilization, used_bytes=0, total_bytes=1, at=now), now)
        assert smoothed.mean(now) == pytest.approx(mean)
    assert smoothed.mean(now + 9.9) is not None
    assert smoothed.mean(now + 10.1) is None


def test_readings_that_are_old_or_from_the_future_are_ignored() -> None:
    smoothed = Smoothed(half_life=2.0, stale=10.0)

    def reading(utilization: float, at: float) -> Reading:
        return Reading(utilization=utilization, used_bytes=0, total_bytes=1, at=at)

    smoothed.add(reading(0.9, 5.0), 50.0)
    assert smoothed.mean(50.0) is None
    smoothed.add(reading(0.9, 51.0), 50.0)
    assert smoothed.mean(51.0) is None
    smoothed.add(reading(0.4, 50.0), 50.0)
    smoothed.add(reading(0.9, 49.0), 50.0)
    smoothed.add(reading(0.9, 50.0), 50.0)
    assert smoothed.mean(50.0) == 0.4


def test_a_monitor_that_stands_still_is_not_believed() -> None:
    machine = Machine([0.1, 0.9])
    frozen = {gpu: machine.read(gpu) for gpu in machine.gpus()}
    chooser = Balancer(
        SimpleNamespace(gpus=machine.gpus, read=frozen.__getitem__), clock=machine.clock
    )
    chooser.read()
    assert chooser.snapshots()[1].utilization == 0.9
    machine.now += 60
    chooser.read()
    assert [snapshot.utilization for snapshot in chooser.snapshots()] == [None, None]
    assert chooser.choose(10).gpu in "01"


@pytest.mark.parametrize(
    "bad",
    [
        {"utilization": 1.1}, {"utilization": -0.1}, {"utilization": math.nan},
        {"used_bytes": 11}, {"used_bytes": -1}, {"power_watts": math.inf},
        {"temperature_celsius": math.nan},
    ],
)  # fmt: skip
def test_an_impossible_reading_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it must be"):
        Reading(**{"utilization": 0.5, "used_bytes": 1, "total_bytes": 10, "at": 0.0, **bad})


def test_a_clock_that_goes_back_does_not_make_the_past_the_present() -> None:
    machine = Machine([0.1, 0.9])
    chooser = balancer(machine, first_pause=1.0)
    chooser.choose(1).failed()
    machine.now -= 3600
    assert [snapshot.utilization for snapshot in chooser.snapshots()] == [None, None]
    machine.utilization = [0.2, 0.3]
    chooser.read()
    assert [snapshot.utilization for snapshot in chooser.snapshots()] == [0.2, 0.3]
    assert len(chooser.trials()) == 1  # an hour more would be a long pause


def test_a_gpu_that_tells_no_utilisation_counts_as_idle() -> None:
    machine = Machine([0.5, 0.5])
    read = machine.read

    def silent(gpu: str) -> Reading:
        seen = read(gpu)
        return Reading(
            utilization=None if gpu == "1" else seen.utilization, at=seen.at,
            used_bytes=seen.used_bytes, total_bytes=seen.total_bytes, temperature_celsius=61.0,
        )  # fmt: skip

    machine.read = silent  # type: ignore[method-assign]
    chooser = balancer(machine)
    assert chooser.choose(100).gpu == "1"
    other = chooser.snapshots()[1]
    assert (other.utilization, other.temperature_celsius) == (None, 61.0)
    assert other.total_bytes is not None


def test_choosing_never_waits_for_the_monitor() -> None:
    machine = Machine([0.1, 0.2])
    chooser = balancer(machine)
    machine.now += 1000
    for _ in range(100):
        chooser.choose(1).done()
    chooser.snapshots()
    assert machine.reads == 2


def test_devices_are_read_as_far_as_a_monitor_knows_them() -> None:
    machine = Machine([0.3])
    devices = Devices(["0", "0/2", "cpu"], machine)
    assert list(devices.gpus()) == ["0", "0/2", "cpu"]
    assert devices.read("0/2").utilization == devices.read("0").utilization == 0.3
    for nothing in (devices, Devices(["cpu"])):
        with pytest.raises(DeviceUnavailable, match="nothing reads cpu"):
            nothing.read("cpu")
