"""The thread that looks at GPUs and tries those that failed, NVIDIA's library, and the command."""

from __future__ import annotations

import json
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from bul_fakes import until
from device_fakes import GIB, Machine, balancer, failing, nvml

from blatam_kv import cli
from blatam_kv.cli.devices import devices, watch
from blatam_kv.config import Settings
from blatam_kv.devices import Balancer, NvmlMonitor, Reading, Watch
from blatam_kv.errors import ConfigError, DeviceTrouble, DeviceUnavailable, InvalidRequest

SOON = 0.002


def failed_more_than(chooser: Balancer, times: int) -> bool:
    return chooser.snapshots()[1].failures > times


def test_it_looks_before_it_returns_and_no_more_after_its_close() -> None:
    machine = Machine([0.3, 0.45, 0.2, 0.15])
    chooser = Balancer(machine, clock=machine.clock)
    with Watch(chooser, interval=SOON):
        assert [each.utilization for each in chooser.snapshots()] == [0.3, 0.45, 0.2, 0.15]
        until(lambda: machine.reads >= 40)
    reads = machine.reads
    assert not [thread for thread in threading.enumerate() if thread.name == "device-watch"]
    assert machine.reads == reads


def test_a_gpu_comes_back_when_its_probe_succeeds_and_not_before() -> None:
    machine = Machine([0.0, 0.0])
    chooser = balancer(machine, first_pause=1.0)
    well = threading.Event()
    tried: list[str] = []

    def probe(gpu: str) -> None:
        tried.append(gpu)
        if not well.is_set():
            raise RuntimeError("still broken")

    chooser.leave("1")
    with Watch(chooser, probe=probe, interval=SOON):
        for rounds in range(1, 4):
            machine.now += 100
            until(partial(failed_more_than, chooser, rounds))
            assert not chooser.snapshots()[1].in_rotation
        well.set()
        machine.now += 100
        until(lambda: chooser.snapshots()[1].in_rotation)
    assert set(tried) == {"1"}


def test_a_probe_that_hangs_keeps_nobody_else_out() -> None:
    machine = Machine([0.0] * 3)
    chooser = balancer(machine)
    released = threading.Event()

    def probe(gpu: str) -> None:
        assert gpu != "0" or released.wait(60)

    for gpu in "01":
        chooser.leave(gpu)
    machine.now += 10
    with Watch(chooser, probe=probe, interval=SOON):
        until(lambda: chooser.snapshots()[1].in_rotation)
        reads = machine.reads
        until(lambda: machine.reads > reads + 6)
        assert not chooser.snapshots()[0].in_rotation
        released.set()
        until(lambda: chooser.snapshots()[0].in_rotation)


def test_a_monitor_that_breaks_ends_no_watch(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine([0.1])
    broken = SimpleNamespace(gpus=machine.gpus, read={}.__getitem__)
    with Watch(Balancer(broken, clock=machine.clock), interval=SOON):
        until(lambda: caplog.text.count("the monitor failed") > 2)


def test_an_interval_that_is_no_time_is_refused() -> None:
    for interval in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="interval"):
            Watch(balancer(Machine([0.1])), interval=interval)


# ---- NVML ---------------------------------------------------------------------------------------


def test_nvml_is_read_and_closed() -> None:
    module = nvml()
    with NvmlMonitor(clock=lambda: 5.0, nvml=module) as monitor:
        assert monitor.gpus() == ("0", "1")
        assert monitor.read("1") == Reading(
            utilization=0.31, used_bytes=10 * GIB, total_bytes=80 * GIB, at=5.0,
            temperature_celsius=51.0, power_watts=250.5,
        )  # fmt: skip
        assert monitor.name("0") == "NVIDIA H100"
    assert module.calls == ["init", "shutdown"]
    monitor.close()
    assert module.calls == ["init", "shutdown"]
    with pytest.raises(DeviceUnavailable, match="closed"):
        monitor.read("0")


def test_gpus_are_found_by_their_uuid_whatever_their_order() -> None:
    monitor = NvmlMonitor({"cuda:0": "GPU-1", "cuda:1": "GPU-0"}, nvml=nvml())
    assert monitor.gpus() == ("cuda:0", "cuda:1")
    assert [monitor.read(gpu).utilization for gpu in monitor.gpus()] == [0.31, 0.30]


def test_what_a_gpu_does_not_tell_is_none() -> None:
    silent = {
        f"nvmlDeviceGet{what}": failing(3)
        for what in ("UtilizationRates", "Temperature", "PowerUsage")
    }
    seen = NvmlMonitor(nvml=nvml(**silent)).read("0")
    assert (seen.utilization, seen.temperature_celsius, seen.power_watts) == (None, None, None)
    assert seen.used_bytes == 10 * GIB


@pytest.mark.parametrize(
    ("value", "reason"), [(15, DeviceTrouble.LOST), (999, DeviceTrouble.FAILED)]
)
def test_a_gpu_that_nvml_lost_is_said_to_be_lost(value: int, reason: DeviceTrouble) -> None:
    monitor = NvmlMonitor(nvml=nvml(nvmlDeviceGetUtilizationRates=failing(value)))
    with pytest.raises(DeviceUnavailable, match="GPU 1 cannot be read") as caught:
        monitor.read("1")
    assert caught.value.reason is reason


def test_without_a_driver_that_is_said() -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        NvmlMonitor(nvml=nvml(nvmlInit=failing(9)))
    assert caught.value.reason is DeviceTrouble.NO_DRIVER


# ---- the command --------------------------------------------------------------------------------


def test_the_command_shows_each_gpu_and_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert devices(as_json=True, monitor=NvmlMonitor(nvml=nvml())) == 0
    report = json.loads(capsys.readouterr().out)
    assert [
        (gpu["gpu"], gpu["name"], gpu["utilization"], gpu["power_watts"]) for gpu in report["gpus"]
    ] == [("0", "NVIDIA H100", 0.3, 250.5), ("1", "NVIDIA H100", 0.31, 250.5)]
    assert (report["next"], report["reason"]) == ("0", None)


def test_the_command_says_why_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gpus"] or report["reason"]
    assert report["kernels"]
    assert cli.main(["devices"]) == 0
    assert "kernels" in capsys.readouterr().out


def test_watched_it_prints_a_line_for_each_gpu_again_and_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def look(**options: Any) -> list[str]:
        options = {"interval": 0.05, "count": 2, "as_json": False} | options
        assert watch(None, Settings(), monitor=NvmlMonitor(nvml=nvml()), **options) == 0
        return capsys.readouterr().out.splitlines()

    head, *lines = look()
    assert head.split()[:3] == ["time", "device", "state"]
    assert [line.split()[1:5] for line in lines] == 2 * [
        ["0", "in", "30%", "12%"],
        ["1", "in", "31%", "12%"],
    ]
    told = [json.loads(line) for line in look(as_json=True)]
    assert [line["gpu"] for line in told] == ["0", "1", "0", "1"]
    for wrong in ({"interval": 0.0}, {"count": 0}):
        with pytest.raises(InvalidRequest):
            look(**wrong)
