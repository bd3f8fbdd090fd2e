"""Queues the work: one launch for each scheme that an arrangement has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from blatam_kv import _core
from blatam_kv.cuda import probe
from blatam_kv.cuda.arrangement import ELEMENTS, Arrangement, Launch, device_error
from blatam_kv.errors import InvalidRequest

HOST = -1


def store(
    arrangement: Arrangement, slots: Any, *, payloads: Any, report: Any, stream: Any = None
) -> None:
    """Gather, quantise and pack the tokens in ``slots`` into ``payloads``.

    slots: int64 [blocks, tokens], -1 for none, which counts as a token of zeros. payloads, report:
    memory of ``bytes_for`` and ``report_bytes``, any contiguous tensor. All of it on the cache's
    device, and alive until the work is done. stream: where to queue it, as an integer, an object
    with ``__cuda_stream__`` or torch's; by default the one that the framework of ``slots`` uses now.

    On a device it returns at once. Nobody may believe a payload whose report was not looked at:
    wait for the stream, copy both to the host and call ``Arrangement.seal``. On the host the work
    is done when it returns, by the same code, lane by lane: right, not fast.

    Raises InvalidRequest for memory that is too small, misaligned or elsewhere, DeviceUnavailable
    where the GPU cannot: nothing was queued then.
    """
    _run(arrangement, slots, payloads, report, stream, store=True)


def fetch(
    arrangement: Arrangement, slots: Any, *, payloads: Any, report: Any, stream: Any = None
) -> None:
    """Unpack and dequantise what ``unseal`` laid out, and scatter it to ``slots``.

    Arguments and errors as for ``store``; a slot of -1 leaves its token out. When the work is done
    the report says whether it went well: ``Arrangement.check_fetched``.
    """
    _run(arrangement, slots, payloads, report, stream, store=False)


def _run(
    arrangement: Arrangement, slots: Any, payloads: Any, report: Any, stream: Any, *, store: bool
) -> None:
    cache = arrangement.cache
    module = None
    if cache.device != HOST:
        probe.status().require()
        module = probe.module()
    given = _memory(slots, "slots", cache.device, dtype="int64")
    if len(given.shape) != 2 or given.shape[1] != arrangement.tokens:
        raise InvalidRequest(
            f"slots have the shape {given.shape}; it must be (blocks, {arrangement.tokens})",
            field="slots",
        )
    blocks = given.shape[0]
    if blocks >= 2**31:
        raise InvalidRequest(f"{blocks} blocks are too many for one call", field="slots")
    base = _room(payloads, "payloads", cache.device, arrangement.bytes_for(blocks))
    said = _room(report, "report", cache.device, arrangement.report_bytes(blocks))
    number = stream_number(stream, slots, cache.device) if module else 0
    for launch in arrangement.launches:
        _launch(arrangement, launch, module, number, store, blocks, given.address, base, said)
        said += -(-12 * len(launch.tensors) * blocks // 8) * 8


def _launch(
    arrangement: Arrangement, launch: Launch, module: ModuleType | None, stream: int, store: bool,
    blocks: int, slots: int, payloads: int, report: int,
) -> None:  # fmt: skip
    import numpy as np

    from blatam_kv.codecs import HEADER_BYTES

    cache = arrangement.cache
    tensors = np.array(
        [[cache.bases[i], arrangement.offsets[i] + HEADER_BYTES] for i in launch.tensors], np.uint64
    )
    job = (
        launch.scheme,
        ELEMENTS.index(cache.element),
        (arrangement.tokens, cache.kv_heads, cache.head_dim),
        (cache.block_tokens, cache.run, cache.slots),
        (cache.block_bytes, cache.token_bytes, cache.head_bytes, cache.run_bytes),
        arrangement.seed,
        blocks,
        tensors,
        (slots, payloads, report, report + 8 * len(launch.tensors) * blocks),
        arrangement.block_bytes,
        launch.room,
    )
    if module is None:
        code, text = _core.run_paged(store, *job), _core.paged_text
    else:
        code, text = module.run(store, cache.device, stream, *job), module.text
    if code == 0:
        return
    if module is not None and code >= module.CUDA_ERROR:
        raise probe.error_of(module, code)
    raise device_error(code, text(code))


@dataclass(frozen=True, slots=True)
class _Memory:
    address: int
    shape: tuple[int, ...]
    size: int  # bytes


def _memory(memory: Any, name: str, device: int, dtype: str | None = None) -> _Memory:
    address, where, found, shape, strides, _ = _core.describe_memory(memory)
    if where != device:
        raise InvalidRequest(
            f"{name} lie on {_place(where)}, the cache on {_place(device)}; move them there",
            field=name,
        )
    if dtype is not None and found != dtype:
        raise InvalidRequest(f"{name} are {found}; they must be {dtype}", field=name)
    step = _item_bytes(found)
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step and 0 not in shape:
            raise InvalidRequest(f"{name} must be contiguous", field=name)
        step *= size
    return _Memory(address, shape, step)


def _room(memory: Any, name: str, device: int, size: int) -> int:
    found = _memory(memory, name, device)
    if found.size < size:
        raise InvalidRequest(f"{name} have {found.size} bytes, {size} are needed", field=name)
    return found.address


def _item_bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


def _place(device: int) -> str:
    return "the host" if device == HOST else f"device {device}"


def stream_number(stream: Any, like: Any, device: int) -> int:
    """The stream that ``stream`` names, None being the one that the framework of ``like`` uses now."""
    if stream is None:
        found = _core.current_stream(like, device)
        if found is None:
            raise InvalidRequest(
                "these tensors do not say which stream they are used on; pass stream=",
                field="stream",
            )
        return int(found)
    if isinstance(stream, int):
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
