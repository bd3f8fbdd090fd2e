"""NVIDIA's GPUs, read through NVML (the extra ``gpu``); no CUDA context, nothing runs on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from blatam_kv.devices.reading import Reading
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable, MissingExtra


class NvmlMonitor:
    """Utilisation and memory of this machine's GPUs. A context manager; close() ends it.

    GPUs are named by their number in NVML's order ("0", "1", ...), which is that of nvidia-smi.
    CUDA orders them alike under CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises MissingExtra without nvidia-ml-py, DeviceUnavailable without a driver.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, nvml: Any = None) -> None:
        if nvml is None:
            try:
                import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
            except ImportError as error:
                raise MissingExtra("nvidia-ml-py", extra="gpu") from error
            nvml = pynvml
        self._clock = clock
        self._nvml = nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise DeviceUnavailable(
                DeviceTrouble.NO_DRIVER, f"NVIDIA's driver does not answer: {error}"
            ) from error
        self._count = int(nvml.nvmlDeviceGetCount())

    def __enter__(self) -> NvmlMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def gpus(self) -> Sequence[str]:
        return [str(i) for i in range(self._count)]

    def read(self, gpu: str) -> Reading:
        nvml = self._nvml
        if nvml is None:
            raise DeviceUnavailable(DeviceTrouble.FAILED, "the monitor is closed")
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu))
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        except nvml.NVMLError as error:
            lost = getattr(nvml, "NVML_ERROR_GPU_IS_LOST", 15)
            reason = (
                DeviceTrouble.LOST
                if getattr(error, "value", None) == lost
                else DeviceTrouble.FAILED
            )
            raise DeviceUnavailable(reason, f"GPU {gpu} cannot be read: {error}") from error
        return Reading(
            utilization=min(max(busy / 100, 0.0), 1.0),
            used_bytes=int(memory.used),
            total_bytes=int(memory.total),
            at=self._clock(),
        )

    def name(self, gpu: str) -> str:
        """The GPU's model."""
        handle = self._nvml.nvmlDeviceGetHandleByIndex(int(gpu))
        name = self._nvml.nvmlDeviceGetName(handle)
        return name.decode() if isinstance(name, bytes) else str(name)
