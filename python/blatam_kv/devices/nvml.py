"""NVIDIA's GPUs, read through NVML (the extra ``gpu``); no CUDA context, nothing runs on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blatam_kv.devices.reading import Reading
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable, MissingExtra


class NvmlMonitor:
    """Utilisation, memory, temperature and power of this machine's GPUs. A context manager; close()
    ends it.

    uuids: the GPUs to read, a UUID (``GPU-…``) for each name that they are to have here. By default
    all of them, named by their number in NVML's order ("0", "1", ...), which is that of nvidia-smi;
    CUDA has another unless CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises MissingExtra without nvidia-ml-py, DeviceUnavailable without a driver.
    """

    def __init__(
        self,
        uuids: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        nvml: Any = None,  # the module pynvml, which is untyped
    ) -> None:
        if nvml is None:
            try:
                import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
            except ImportError as error:
                raise MissingExtra("nvidia-ml-py", extra="gpu") from error
            nvml = pynvml
        self._clock = clock
        self._nvml = nvml
        self._uuids = uuids
        try:
            nvml.nvmlInit()
            names = uuids or range(int(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError as error:
            raise DeviceUnavailable(
                DeviceTrouble.NO_DRIVER, f"NVIDIA's driver does not answer: {error}"
            ) from error
        self._names = tuple(map(str, names))

    def __enter__(self) -> NvmlMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def gpus(self) -> Sequence[str]:
        return self._names

    def read(self, gpu: str) -> Reading:
        nvml = self._nvml
        if nvml is None:
            raise DeviceUnavailable(DeviceTrouble.FAILED, "the monitor is closed")
        try:
            handle = self._handle(gpu)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            busy = self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            celsius = self._told(
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            )
            milliwatts = self._told(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        except nvml.NVMLError as error:
            lost = getattr(nvml, "NVML_ERROR_GPU_IS_LOST", 15)
            reason = (
                DeviceTrouble.LOST
                if getattr(error, "value", None) == lost
                else DeviceTrouble.FAILED
            )
            raise DeviceUnavailable(reason, f"GPU {gpu} cannot be read: {error}") from error
        return Reading(
            utilization=None if busy is None else min(max(busy / 100, 0.0), 1.0),
            used_bytes=int(memory.used),
            total_bytes=int(memory.total),
            at=self._clock(),
            temperature_celsius=celsius,
            power_watts=None if milliwatts is None else milliwatts / 1000,
        )

    def name(self, gpu: str) -> str:
        """The GPU's model."""
        name = self._nvml.nvmlDeviceGetName(self._handle(gpu))
        return name.decode() if isinstance(name, bytes) else str(name)

    def _handle(self, gpu: str) -> Any:
        if self._uuids is not None:
            return self._nvml.nvmlDeviceGetHandleByUUID(self._uuids[gpu])
        return self._nvml.nvmlDeviceGetHandleByIndex(int(gpu))

    def _told(self, ask: Callable[[], Any]) -> float | None:
        """What a GPU answers, None if it does not tell: a part of one (MIG) has no utilisation."""
        try:
            return float(ask())
        except self._nvml.NVMLError as error:
            silent = getattr(self._nvml, "NVML_ERROR_NOT_SUPPORTED", 3)
            if getattr(error, "value", None) == silent:
                return None
            raise
