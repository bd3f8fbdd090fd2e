"""What a load is about: where its blocks are, and where they are to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv.cuda.bus import Bus
from blatam_kv.cuda.cuts import Cuts, Form
from blatam_kv.cuda.layouts import PagedCache
from blatam_kv.cuda.memory import stream_number
from blatam_kv.cuda.slots import checked_slots
from blatam_kv.errors import CorruptBlob, InvalidRequest, NoRoom
from blatam_kv.record import Kind
from blatam_kv.tiers.device import DeviceMemory
from blatam_kv.tiers.key_locks import KeyLocks
from blatam_kv.tiers.protocol import Tier
from blatam_kv.tiers.sources import Arrival, Decoded, Encoded, Source


def gathered(
    memory: DeviceMemory,
    below: Tier,
    locks: KeyLocks,
    keys: Sequence[bytes],
    cache: PagedCache,
    *,
    tokens: int,
    seed: int,
    bad: Callable[[bytes], None],
) -> tuple[list[Arrival], Form]:
    """As many of the first blocks as can come into a cache, and what they are alike in.

    bad: told of a block that turns out to be damaged. Raises Unsupported and DeviceUnavailable.
    """
    arrivals: list[Arrival] = []
    form: Form | None = None
    here = [memory.find(key) for key in keys]
    missing = [key for key, resident in zip(keys, here, strict=True) if resident is None]
    memory.figures.add(hits=len(keys) - len(missing), misses=len(missing))
    versions = {key: locks.version(key) for key in missing}
    records = dict(zip(missing, below.get_many(missing) if missing else [], strict=True))
    for key, resident in zip(keys, here, strict=True):
        record = records[key] if resident is None else resident.head
        if record is None:
            break
        try:
            if form is None and record.kind is Kind.BLOCK:
                form = Form(cache, record.codec, tokens=tokens, seed=seed)
            cuts = Cuts.of(record.payload) if resident is None else resident.cuts
        except CorruptBlob:
            bad(key)
            break
        if cuts is None or form is None or record.codec != form.codec or not form.fits(cuts):
            memory.figures.add(foreign=1)
            break
        if form.hosted and resident is None:
            arrivals.append(Arrival(record, cuts, None, 0, None))  # to the host it is near enough
        elif resident is None:
            with memory.counted():
                piece = memory.room(memoryview(record.payload).nbytes)
            if piece is None:
                break
            arrivals.append(Arrival(record, cuts, piece, versions[key], None))
        else:
            arrivals.append(Arrival(record, cuts, resident.piece, 0, resident))
    return arrivals, form or Form(cache, "raw", tokens=tokens, seed=seed)


def source_of(
    memory: DeviceMemory,
    bus: Bus,
    form: Form,
    arrivals: Sequence[Arrival],
    bad: Callable[[bytes], None],
) -> Source:
    """Where the kernels take these from. Raises NoRoom and DeviceUnavailable."""
    if not form.hosted or not arrivals:
        return Encoded(arrivals, bad)
    pieces = []
    for _ in range(2):
        with memory.counted():
            piece = memory.room(Decoded.piece_bytes(form, len(arrivals)))
        if piece is None:
            raise NoRoom(
                f"what the host decodes of {form.codec!r} finds no room on the device; load fewer "
                "blocks at once, or unpin something"
            )
        pieces.append(piece)
    return Decoded(bus, form, arrivals, pieces, bad)


def checked_target(
    keys: Sequence[bytes], cache: PagedCache, slots: Any, stream: Any, *, device: int
) -> tuple[npt.NDArray[np.int64], int]:
    """The slots as an array, and the stream's number. Raises InvalidRequest for a cache that is on
    another device or no engine's, and for slots that do not fit."""
    if cache.device != device:
        raise InvalidRequest(
            f"the cache is on device {cache.device}, the tier on {device} (-1 is the host); open a "
            "tier for each device",
            field="cache",
        )
    if cache.kinds != ("key", "value") * (len(cache.kinds) // 2):
        raise InvalidRequest(
            "the cache must hold keys and values of each layer in turn; PagedCache.paired joins "
            "those of an engine that keeps them apart",
            field="cache",
        )
    table = checked_slots(slots, cache, rows=len(keys))
    if device < 0:
        return table, 0  # the thread that calls
    return table, stream_number(stream, cache.owners[0], device)
