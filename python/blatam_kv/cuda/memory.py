"""What callers hand over: where memory lies, whether it is enough, and on which stream work goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from blatam_kv import _core
from blatam_kv.errors import InvalidRequest

HOST = -1  # the number of the host among the devices


@dataclass(frozen=True, slots=True)
class Place:
    """Some memory: contiguous, but for the rows of two dimensions where that was allowed."""

    address: int
    device: int
    dtype: str
    shape: tuple[int, ...]
    row_bytes: int  # from one row to the next, in two dimensions
    size: int  # bytes, from the first to the last


def place(
    memory: Any,
    name: str,
    device: int | None,
    *,
    dtypes: tuple[str, ...] = (),
    rows: bool = False,
    written: bool = False,
    beside: str = "the cache",
) -> Place:
    """Look at memory without reading it; InvalidRequest, naming it, where it does not fit.

    device: where it must lie, as ``beside`` does; None allows any. dtypes: what it may hold; none
    allows all. rows: whether the rows of a matrix may lie apart. written: whether it must be
    writable.
    """
    address, where, dtype, shape, strides, read_only = _core.describe_memory(memory)
    if device not in (None, where):
        raise InvalidRequest(
            f"{name} lie on {device_name(where)}, {beside} on {device_name(device)}; move them "
            "there",
            field=name,
        )
    if dtypes and dtype not in dtypes:
        raise InvalidRequest(f"{name} are {dtype}; they must be {' or '.join(dtypes)}", field=name)
    if written and read_only:
        raise InvalidRequest(f"{name} are read-only; pass memory that may be written", field=name)
    step = _item_bytes(dtype)
    row_bytes = 0
    for axis in reversed(range(len(shape))):
        if rows and axis == 0 and len(shape) == 2 and strides[0] >= step:
            row_bytes = strides[0]
            step = row_bytes * (shape[0] - 1) + step if shape[0] else 0
            continue
        if shape[axis] > 1 and strides[axis] != step and 0 not in shape:
            raise InvalidRequest(f"{name} must be contiguous", field=name)
        if axis == 0:
            row_bytes = step
        step *= shape[axis]
    return Place(address, where, dtype, shape, row_bytes, step)


def room(memory: Any, name: str, device: int, size: int, *, align: int) -> int:
    """The address of writable memory of at least ``size`` bytes."""
    found = place(memory, name, device, written=True)
    if found.size < size:
        raise InvalidRequest(f"{name} have {found.size} bytes, {size} are needed", field=name)
    if size and found.address % align:
        raise InvalidRequest(
            f"{name} are misaligned: they must begin at a multiple of {align} bytes", field=name
        )
    return found.address


def device_name(device: int | None) -> str:
    return "the host" if device == HOST else f"device {device}"


def stream_number(stream: Any, like: Any, device: int) -> int:
    """The stream to queue on: the one given, or the one that the framework of ``like`` uses."""
    if stream is None:
        found = _core.current_stream(like, device)
        if found is None:
            raise InvalidRequest(
                "these tensors do not say which stream they are used on; pass stream=",
                field="stream",
            )
        return int(found)
    if isinstance(stream, int):
        # As DLPack and CUDA number them: 0 and 1 the legacy default stream, 2 the thread's own; else
        # a handle.
        if isinstance(stream, bool) or not 0 <= stream < 2**64:
            raise InvalidRequest(
                f"stream is {stream}; pass a stream's handle, 0 or 1 for the legacy default stream, 2 "
                "for the thread's own",
                field="stream",
            )
        return stream
    if hasattr(stream, "__cuda_stream__"):
        _, number = stream.__cuda_stream__()
        return int(number)
    if hasattr(stream, "cuda_stream"):  # torch's, before it had the protocol
        return int(stream.cuda_stream)
    raise InvalidRequest(
        f"stream is a {type(stream).__name__}; pass an integer or an object with __cuda_stream__",
        field="stream",
    )


def _item_bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
