"""Whether there is a GPU to run on, found out when first asked and said in one sentence."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType

from blatam_kv.errors import DeviceTrouble, DeviceUnavailable

_NO_DEVICE, _TOO_OLD = 100, 35  # CUDA's numbers for these errors
_OUT_OF_MEMORY = 2
# Errors after which CUDA refuses every later call of the process, as its reference says.
_FINAL = frozenset({46, 214, 219, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720, 721, 999})


@dataclass(frozen=True, slots=True)
class Status:
    """What the GPU part is and what it found. reason and trouble are None where it can be used."""

    built: bool
    architectures: tuple[str, ...]
    driver: str | None  # the CUDA version that the driver serves, as "13.0"
    devices: int
    trouble: DeviceTrouble | None
    reason: str | None

    def require(self) -> None:
        """Raise DeviceUnavailable unless there is a device."""
        if self.trouble is not None:
            assert self.reason is not None
            raise DeviceUnavailable(self.trouble, self.reason)


@functools.cache
def status() -> Status:
    """Load the GPU module, once, and count devices. It raises nothing."""
    try:
        return examine(module())
    except DeviceUnavailable as error:
        return Status(False, (), None, 0, error.reason, str(error))


@functools.cache
def module() -> ModuleType:
    """The GPU module, imported at the first call; DeviceUnavailable where there is none."""
    try:
        import blatam_kv._cuda as native
    except ModuleNotFoundError as error:
        raise DeviceUnavailable(
            DeviceTrouble.NOT_BUILT,
            "this blatam_kv was built without CUDA; everything runs on the CPU. Install it again "
            "where nvcc is in PATH (it comes with the extra cuda-build) with "
            "--config-settings=cmake.define.BLATAM_CUDA=ON",
        ) from error
    except ImportError as error:
        raise DeviceUnavailable(
            DeviceTrouble.FAILED,
            f"the GPU module does not load; everything runs on the CPU: {error}",
        ) from error
    return native


def examine(cuda: ModuleType) -> Status:
    """What a loaded module says of driver and devices."""
    _, driver, runtime = cuda.versions()
    code, devices = cuda.device_count()
    found, reason = _judged(cuda, code, devices, driver, runtime)
    return Status(
        True,
        tuple(cuda.architectures.split()),
        _version(driver) if driver else None,
        devices,
        found,
        reason,
    )


def _judged(
    cuda: ModuleType, code: int, devices: int, driver: int, runtime: int
) -> tuple[DeviceTrouble | None, str | None]:
    if driver == 0:
        return DeviceTrouble.NO_DRIVER, (
            "no NVIDIA driver is installed (libcuda.so.1 is missing); everything runs on the CPU"
        )
    # Minor versions are compatible among one another, so only the major one can be too old.
    if code == cuda.CUDA_ERROR + _TOO_OLD or driver // 1000 < runtime // 1000:
        return DeviceTrouble.DRIVER_TOO_OLD, (
            f"the NVIDIA driver serves CUDA {_version(driver)} and is too old for CUDA "
            f"{_version(runtime)}, for which this was built; update the driver. Everything runs "
            "on the CPU"
        )
    if code == cuda.CUDA_ERROR + _NO_DEVICE or (code == 0 and devices == 0):
        return DeviceTrouble.NO_DEVICE, (
            "there is a driver but no GPU that this process may use (look at nvidia-smi and "
            "CUDA_VISIBLE_DEVICES); everything runs on the CPU"
        )
    if code != 0:
        return DeviceTrouble.FAILED, f"the GPUs cannot be counted: {cuda.text(code)}"
    return None, None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def error_of(cuda: ModuleType, code: int) -> DeviceUnavailable:
    """The exception for a code from CUDA itself."""
    number, remedy = code - cuda.CUDA_ERROR, ""
    if number == _OUT_OF_MEMORY:
        reason = DeviceTrouble.OUT_OF_MEMORY
    elif number in _FINAL:
        reason = DeviceTrouble.LOST
        remedy = ". CUDA serves this process no more: restart it"
    else:
        reason = DeviceTrouble.FAILED
    return DeviceUnavailable(reason, f"CUDA error {number}: {cuda.text(code)}{remedy}")
