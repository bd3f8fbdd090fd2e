"""Blocks on their way out of an engine's paged cache, encoded there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv.codecs import HEADER_BYTES
from blatam_kv.cuda.arrangement import Arrangement
from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.layouts import PagedCache
from blatam_kv.errors import NoRoom, Unsupported
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
    if not plan.has_kernels:
        # The CPU has it, but what is encoded here must come back here.
        raise Unsupported(
            f"codec {codec!r} has no kernel for heads of {cache.head_dim}; encode it on the CPU"
        )
    portion = max(1, min(_PORTION_BYTES, bus.pool_bytes // 4) // max(1, plan.block_bytes))
    for first in range(0, len(slots), portion):
        yield from _portion(bus, memory, plan, slots[first : first + portion], stream)


def _portion(
    bus: Bus, memory: DeviceMemory, plan: Arrangement, slots: npt.NDArray[np.int64], stream: int
) -> list[Bytes | None]:
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
    rows = plan.seal(home[:size], home[size:], blocks=blocks)
    return [_joined(row) for row in rows]


def _joined(blobs: list[Any]) -> Bytes | None:
    """A block's payload: its blobs, each filled up (docs/FORMAT.md)."""
    if any(blob is None for blob in blobs):
        return None
    payload = bytearray(sum(filled(len(blob)) for blob in blobs))
    at = 0
    for blob in blobs:
        payload[at : at + len(blob)] = memoryview(blob)
        at += filled(len(blob))
    return memoryview(payload).toreadonly()
