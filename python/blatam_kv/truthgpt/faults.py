"""Whether a failed computation was the device's fault, told from what torch raised."""

from __future__ import annotations

import re

from blatam_kv.errors import DeviceFailed, DeviceTrouble, ModelError

# What reaches us as a plain RuntimeError, from libraries that torch calls.
_DEVICE = re.compile(r"\b(CUDA|HIP|XPU|MPS|cuDNN|CUDNN|cuBLAS|CUBLAS|NVRTC)\b")


def failure(error: Exception, message: str) -> ModelError:
    """The error to raise for what torch raised: DeviceFailed where the device failed, so that another
    may do better; a plain ModelError where the same would happen on any."""
    trouble = trouble_of(error)
    if trouble is DeviceTrouble.LOST:
        message += ". It stays so until this process is restarted"
    return ModelError(message) if trouble is None else DeviceFailed(trouble, message)


def trouble_of(error: Exception) -> DeviceTrouble | None:
    """What is wrong with the device; None if nothing is.

    A MemoryError is the host's, which all devices share. An error of the accelerator (an illegal
    address, an assertion, a device that fell off the bus) stays with it to the end of the process.
    """
    import torch

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceTrouble.OUT_OF_MEMORY
    if isinstance(error, torch.AcceleratorError):
        return DeviceTrouble.LOST
    if isinstance(error, RuntimeError) and _DEVICE.search(text):
        out = "out of memory" in text or "ALLOC_FAILED" in text
        return DeviceTrouble.OUT_OF_MEMORY if out else DeviceTrouble.FAILED
    return None
