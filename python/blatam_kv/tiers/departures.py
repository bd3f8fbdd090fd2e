"""Blocks on their way out of an engine's paged cache, encoded there or, where no kernel does it, here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv import _core
from blatam_kv.codecs import HEADER_BYTES
from blatam_kv.cuda.arrangement import Arrangement
from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.hosted import fill_pages
from blatam_kv.cuda.layouts import PagedCache
from blatam_kv.errors import NoRoom
from blatam_kv.record import Bytes, filled
from blatam_kv.tensors import aligned_bytes
from blatam_kv.tiers.device import DeviceMemory

# What is encoded at once: memory of the device that must be free for it, and of the host.
_PORTION_BYTES = 32 << 20


def departing(
    bus: Bus,
    memory: DeviceMemory,
    cache: PagedCache,
    slots: npt.NDArray[np.int64],
    *,
    codec: str,
    seed: int,
    stream: int,
) -> Iterator[Bytes | None]:
    """The payload of each block, or None for one whose escapes found no room.

    slots: checked. Raises Unsupported, NoRoom and DeviceUnavailable.
    """
    plan = Arrangement.of(cache, codec=codec, tokens=slots.shape[1], seed=seed)
    device = plan
    if not plan.has_kernels:  # then the device only gathers
        device = Arrangement.of(cache, codec="raw", tokens=slots.shape[1], spare=0)
    portion = max(1, min(_PORTION_BYTES, bus.pool_bytes // 4) // max(1, device.block_bytes))
    for first in range(0, len(slots), portion):
        some = slots[first : first + portion]
        for blobs, wanted in zip(_portion(bus, memory, device, some, stream), some, strict=True):
            yield _joined(blobs if device is plan else _encoded(plan, blobs, wanted))


def _portion(
    bus: Bus, memory: DeviceMemory, plan: Arrangement, slots: npt.NDArray[np.int64], stream: int
) -> list[list[Any]]:
    """The blobs of some blocks, as ``Arrangement.seal`` gives them."""
    blocks = len(slots)
    size, said = plan.bytes_for(blocks), plan.report_bytes(blocks)
    with memory.counted():
        piece = memory.room(size + said + slots.nbytes)
        if piece is None:
            raise NoRoom("what is pinned leaves no room to encode a block in; unpin something")
        bus.follow(stream)
        bus.up([(slots, piece, size + said)])
        at = piece.address + size
        for launch in plan.launches:
            assert launch.scheme is not None
            count = len(launch.tensors) * blocks
            tensors = [
                [plan.cache.bases[i], plan.offsets[i] + HEADER_BYTES] for i in launch.tensors
            ]
            bus.run(
                plan.cache,
                store=True,
                scheme=launch.scheme,
                tokens=plan.tokens,
                seed=plan.seed,
                blocks=blocks,
                tensors=np.array(tensors, np.uint64),
                slots=piece.address + size + said,
                payloads=piece.address,
                sizes=at,
                faults=at + 8 * count,
                stride=plan.block_bytes,
                room=launch.room,
                places=0,
                pieces=[piece],
            )
            at += -(-12 * count // 8) * 8
        home = aligned_bytes(size + said)
        bus.down(piece, 0, home)
    return [list(row) for row in plan.seal(home[:size], home[size:], blocks=blocks)]


def _encoded(
    plan: Arrangement, raw: Sequence[Any], slots: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.uint8]]:
    """A block's blobs by the host's codec, of what the device has gathered."""
    cache, places = plan.cache, np.arange(len(slots))
    pages = np.where(slots < 0, -1, places)[None]
    fill_pages(pages)
    rooms = {tensor: launch.room for launch in plan.launches for tensor in launch.tensors}
    blobs = []
    for tensor, gathered in enumerate(raw):
        values = gathered[HEADER_BYTES:].view(np.uint16)
        values = values.reshape(plan.tokens, cache.kv_heads, cache.head_dim)
        if plan.by_page(tensor):  # skipped tokens are like their page's first, so no range widens
            values = values[np.where(pages[0] < 0, places, pages[0])]
        key, size = cache.kinds[tensor] == "key", HEADER_BYTES + rooms[tensor]
        while True:
            blob = np.empty(size, np.uint8)
            size = _core.encode_blob(values, blob, plan.codec, key, plan.dtype, plan.seed, 1, True)
            if size <= len(blob):
                break
        blobs.append(blob[:size])
    return blobs


def _joined(blobs: Sequence[Any]) -> Bytes | None:
    """A block's payload: its blobs, each filled up (docs/FORMAT.md)."""
    if any(blob is None for blob in blobs):
        return None
    payload = bytearray(sum(filled(len(blob)) for blob in blobs))
    at = 0
    for blob in blobs:
        payload[at : at + len(blob)] = memoryview(blob)
        at += filled(len(blob))
    return memoryview(payload).toreadonly()
