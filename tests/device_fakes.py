"""GPUs as a test wants them: a monitor with a clock, NVIDIA's library, and models on devices."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from bul_fakes import Scripted

from blatam_kv.devices import Balancer, Reading, Weights
from blatam_kv.errors import DeviceFailed, DeviceTrouble, DeviceUnavailable
from blatam_kv.metrics import TierSnapshot
from blatam_kv.truthgpt.protocol import Chunk, Message, Sampling

GIB = 1 << 30


class Machine:
    """GPUs, and a clock. NaN for a utilisation is what no reading may hold."""

    def __init__(self, utilization: Sequence[float], used: Sequence[float] | None = None) -> None:
        self.now = 100.0
        self.utilization = list(utilization)
        self.used = list(used or [0.1] * len(utilization))
        self.broken: set[str] = set()
        self.trouble = DeviceTrouble.LOST
        self.reads = 0

    def clock(self) -> float:
        return self.now

    def gpus(self) -> list[str]:
        return [str(i) for i in range(len(self.utilization))]

    def read(self, gpu: str) -> Reading:
        self.reads += 1
        if gpu in self.broken:
            raise DeviceUnavailable(self.trouble, f"GPU {gpu} has fallen off the bus")
        i = int(gpu)
        return Reading(
            utilization=self.utilization[i],
            used_bytes=int(self.used[i] * 80 * GIB),
            total_bytes=80 * GIB,
            at=self.now,
            temperature_celsius=50.0 + i,
            power_watts=200.0 + 10 * i,
        )


def balancer(machine: Machine, **weights: Any) -> Balancer:
    """One that has looked once."""
    chooser = Balancer(machine, weights=Weights(**weights), clock=machine.clock)
    chooser.read()
    return chooser


class OnDevice(Scripted):
    """A model on a device that can be broken, also after its first piece."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = False
        self.lost_after_first = False
        self.probes = 0
        self.answered = threading.Semaphore(0)
        self.held: list[TierSnapshot] = []

    def tiers(self) -> list[TierSnapshot]:
        return self.held

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        if sampling.max_tokens == 1:
            self.probes += 1
        if self.lost:
            raise DeviceFailed(DeviceTrouble.LOST, "CUDA error: an illegal memory access")
        for number, chunk in enumerate(super().stream(messages, sampling=sampling, salt=salt)):
            if number and self.lost_after_first:
                raise DeviceFailed(DeviceTrouble.LOST, "CUDA error: unspecified launch failure")
            yield chunk
        self.answered.release()


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML {value}")
        self.value = value


def nvml(**changes: Any) -> Any:
    """The part of pynvml that is used, of a machine with two GPUs."""
    calls: list[str] = []
    module = SimpleNamespace(
        NVMLError=NVMLError, NVML_ERROR_GPU_IS_LOST=15, NVML_ERROR_NOT_SUPPORTED=3,
        NVML_TEMPERATURE_GPU=0, calls=calls,
        nvmlInit=lambda: calls.append("init"), nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetHandleByUUID=lambda uuid: int(uuid.removeprefix("GPU-")),
        nvmlDeviceGetMemoryInfo=lambda h: SimpleNamespace(used=10 * GIB, total=80 * GIB),
        nvmlDeviceGetUtilizationRates=lambda h: SimpleNamespace(gpu=30 + h),
        nvmlDeviceGetTemperature=lambda h, sensor: 50 + h,
        nvmlDeviceGetPowerUsage=lambda h: 250_500,
        nvmlDeviceGetName=lambda h: b"NVIDIA H100",
    )  # fmt: skip
    for name, value in changes.items():
        setattr(module, name, value)
    return module


def failing(value: int) -> Any:
    def call(*_: Any) -> None:
        raise NVMLError(value)

    return call
