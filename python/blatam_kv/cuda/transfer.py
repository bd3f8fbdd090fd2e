"""Queues the work, one launch for each scheme that an arrangement has; or does it on the host."""

from __future__ import annotations

from enum import StrEnum
from types import ModuleType
from typing import Any

from blatam_kv import _core
from blatam_kv.cuda import hosted, probe
from blatam_kv.cuda.arrangement import CODECS, ELEMENTS, Arrangement, Launch, device_error
from blatam_kv.cuda.memory import HOST, place, room, stream_number
from blatam_kv.errors import InvalidRequest, Unsupported


class Route(StrEnum):
    """Who does the work. All of them give the same bits."""

    KERNELS = "kernels"  # on the cache's device
    CODECS = "codecs"  # the host's; tokens of a device come and go by torch's copies
    LANES = "lanes"  # the kernels' code on the host, lane after lane: slow, for tests


def route(arrangement: Arrangement) -> Route:
    """Who ``store`` and ``fetch`` would give the work to.

    Raises DeviceUnavailable where the kernels cannot run and nothing else reaches the cache (its
    tensors are not torch's), Unsupported where there is no kernel and nothing else does. The table
    in docs/CUDA.md has every case.
    """
    cache = arrangement.cache
    if cache.device == HOST:
        return Route.CODECS
    found = probe.status()
    if arrangement.has_kernels and found.trouble is None:
        return Route.KERNELS
    if hosted.is_torch(*cache.owners):
        return Route.CODECS
    if not arrangement.has_kernels:
        raise Unsupported(
            f"codec {arrangement.codec!r} has no kernel for heads of {cache.head_dim}, and without "
            "one only torch's tensors can be reached; use these, or one of the codecs "
            f"{', '.join(CODECS)}"
        )
    found.require()
    raise AssertionError("what has trouble raises")


def store(
    arrangement: Arrangement,
    slots: Any,
    *,
    payloads: Any,
    report: Any,
    stream: Any = None,
    by: Route | None = None,
) -> None:
    """Gather, quantise and pack the tokens in ``slots`` into ``payloads``.

    slots: int64 [blocks, tokens], -1 for none, which counts as a token of zeros. payloads, report:
    memory of ``bytes_for`` and ``report_bytes``, any contiguous tensor. All of it on the cache's
    device, and alive until the work is done. stream: where to queue it, as an integer, an object
    with ``__cuda_stream__`` or torch's; by default the one that the framework of ``slots`` uses now.

    by: who does it, instead of ``route``'s choice. The kernels return at once, and nobody may
    believe a payload whose report was not looked at: wait for the stream, copy both to the host and
    call ``Arrangement.seal``. Elsewhere the work is done when it returns.

    Raises InvalidRequest for memory that is too small, misaligned or elsewhere, DeviceUnavailable
    or Unsupported as ``route`` does: nothing was queued then.
    """
    _run(arrangement, slots, payloads, report, stream, by, store=True)


def fetch(
    arrangement: Arrangement,
    slots: Any,
    *,
    payloads: Any,
    report: Any,
    stream: Any = None,
    by: Route | None = None,
) -> None:
    """Unpack and dequantise what ``unseal`` laid out, and scatter it to ``slots``.

    Arguments and errors as for ``store``; a slot of -1 leaves its token out. When the work is done
    the report says whether it went well: ``Arrangement.check_fetched``.
    """
    if arrangement.cache.read_only:
        raise InvalidRequest(
            "the cache is read-only; nothing can be fetched into it", field="cache"
        )
    _run(arrangement, slots, payloads, report, stream, by, store=False)


def _run(
    arrangement: Arrangement,
    slots: Any,
    payloads: Any,
    report: Any,
    stream: Any,
    by: Route | None,
    *,
    store: bool,
) -> None:
    cache = arrangement.cache
    by = _possible(arrangement, by)
    given = place(slots, "slots", cache.device, dtypes=("int64",))
    if len(given.shape) != 2 or given.shape[1] != arrangement.tokens:
        raise InvalidRequest(
            f"slots have the shape {given.shape}; it must be (blocks, {arrangement.tokens})",
            field="slots",
        )
    blocks = given.shape[0]
    if blocks >= 2**31:
        raise InvalidRequest(f"{blocks} blocks are too many for one call", field="slots")
    base = room(payloads, "payloads", cache.device, arrangement.bytes_for(blocks), align=16)
    said = room(report, "report", cache.device, arrangement.report_bytes(blocks), align=8)
    if by is Route.CODECS and cache.device == HOST:
        (hosted.store if store else hosted.fetch)(
            arrangement,
            hosted.array_at(given.address, "int64", given.shape),
            hosted.array_at(base, "uint8", (arrangement.bytes_for(blocks),)),
            hosted.array_at(said, "uint8", (arrangement.report_bytes(blocks),)),
        )
        return
    if by is Route.CODECS:
        _by_copies(arrangement, slots, payloads, report, stream, blocks, store=store)
        return
    module = probe.module() if by is Route.KERNELS else None
    number = stream_number(stream, slots, cache.device) if module else 0
    for launch in arrangement.launches:
        _launch(arrangement, launch, module, number, store, blocks, given.address, base, said)
        said += -(-12 * len(launch.tensors) * blocks // 8) * 8


def _possible(arrangement: Arrangement, by: Route | None) -> Route:
    chosen = route(arrangement)
    if by is None or by is chosen:
        return chosen
    cache = arrangement.cache
    if by is Route.LANES and cache.device == HOST and arrangement.has_kernels:
        return by
    if by is Route.CODECS and hosted.is_torch(*cache.owners):
        return by
    raise InvalidRequest(
        f"by={str(by)!r} cannot be chosen here, where {str(chosen)!r} does the work", field="by"
    )


def _by_copies(
    arrangement: Arrangement, slots: Any, payloads: Any, report: Any, stream: Any, blocks: int,
    *, store: bool,
) -> None:  # fmt: skip
    import numpy as np

    work = hosted.store if store else hosted.fetch
    sizes = arrangement.bytes_for(blocks), arrangement.report_bytes(blocks)
    if not hosted.is_torch(slots, payloads, report):
        raise InvalidRequest(
            "slots, payloads and report must be torch's tensors, like those of the cache: no kernel "
            "does this, and its memory is reached through torch",
            field="payloads",
        )
    number = None if stream is None else stream_number(stream, slots, arrangement.cache.device)
    with hosted.on_stream(number, slots):
        memory = [
            np.zeros(size, np.uint8) if store else hosted.copied(x, size)
            for x, size in zip((payloads, report), sizes, strict=True)
        ]
        work(arrangement, hosted.copied(slots), *memory)
        for values, tensor in zip(memory, (payloads, report), strict=True):
            if store or tensor is report:
                hosted.copy_back(values, tensor)


def _launch(
    arrangement: Arrangement, launch: Launch, module: ModuleType | None, stream: int, store: bool,
    blocks: int, slots: int, payloads: int, report: int,
) -> None:  # fmt: skip
    import numpy as np

    from blatam_kv.codecs import HEADER_BYTES

    cache = arrangement.cache
    assert launch.scheme is not None
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
