"""Memory over a tier as one place: what is walked, fetched, believed, encoded, admitted and spilled.

Nothing here knows of callers, tags or tenants: a Prompt brings its names, and tensors come checked.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from blatam_kv import _core
from blatam_kv.blocks.below import Below
from blatam_kv.blocks.block import Block, block_weight
from blatam_kv.blocks.counts import Counts
from blatam_kv.blocks.far import PORTION_BYTES as DISTANT_BYTES
from blatam_kv.blocks.fetcher import Fetcher
from blatam_kv.blocks.payload import Packing
from blatam_kv.blocks.prompt import Prompt
from blatam_kv.blocks.residents import Residents
from blatam_kv.blocks.worth import Plan
from blatam_kv.errors import CorruptBlob, Unsupported
from blatam_kv.record import Record
from blatam_kv.tensors import STORAGE

# How much is encoded, or read from a tier, before it is handed on: what a call holds in memory
# beyond the store's bound.
PORTION_BYTES = 16 << 20
# Saves of the same prompt take the same lock, others mostly not.
_SAVE_LOCKS = 16


class Levels:
    """One pool of memory over the tier of a store. Safe from any thread.

    packing: how blocks are in memory. heats: whether what comes from below in another codec is to be
    like that again. at_once: whether blocks go below when they are saved or only when memory needs
    the room. durable: whether they are safe there before a save returns.
    """

    def __init__(
        self,
        packing: Packing,
        residents: Residents,
        below: Below,
        counts: Counts,
        *,
        heats: bool,
        at_once: bool,
        durable: bool,
    ) -> None:
        self.packing, self.residents, self.below = packing, residents, below
        self._heats = heats
        self._fetcher = Fetcher(packing, below, counts, heats=heats)
        self._counts = counts
        self._at_once, self._durable = at_once, durable
        self.portion = max(1, PORTION_BYTES // packing.most_bytes)
        self._distant_portion = max(1, DISTANT_BYTES // packing.most_bytes)
        self._save_locks = tuple(threading.Lock() for _ in range(_SAVE_LOCKS))

    def over(self, residents: Residents, counts: Counts) -> Levels:
        """The same for another pool, or counted apart."""
        return Levels(
            self.packing,
            residents,
            self.below,
            counts,
            heats=self._heats,
            at_once=self._at_once,
            durable=self._durable,
        )

    # ---- looking ------------------------------------------------------------------------------

    def match(self, prompt: Prompt) -> int:
        """How many leading blocks are here or below, as far as can be known without reading."""
        found = len(self.residents.walk(prompt, prompt.blocks))
        for first, last in prompt.portions(found, prompt.blocks):
            run = len(self._run(prompt, first, last))
            found += run
            if run < last - first:
                break
        return found

    def match_within(self, prompt: Prompt, first: int) -> int:
        """Tokens of block ``first``, which is not here whole, that some block here begins with."""
        return self.residents.nearest(prompt.parent(first), not first, prompt.rest(first))[1]

    def here(self, prompt: Prompt, last: int) -> list[Block]:
        """The leading blocks, at most ``last``, all in memory or read from below; a use of each.

        What was read is verified as a record, but no block is decoded.
        """
        blocks = self.residents.walk(prompt, last)
        self.residents.use(prompt.last, prompt.digests(0, len(blocks)))
        resident = len(blocks)
        for more in self._fetched(prompt, resident, last, None):
            blocks += more
        self._count_lookup(prompt, last, resident, len(blocks))
        return blocks

    def load(self, prompt: Prompt, last: int, keys: Any, values: Any) -> int:
        """Decode leading blocks, at most ``last``, into two tensors; returns how many."""
        resident = self.residents.walk(prompt, last)
        self.residents.use(prompt.last, prompt.digests(0, len(resident)))
        filled = 0
        for block in resident:
            if not self._fetcher.decoded(block, keys, values):
                self.residents.discard(block.name)
                break
            filled += 1
        from_memory = filled
        for blocks in self._fetched(prompt, filled, last, (keys, values)):
            filled += len(blocks)
        self._count_lookup(prompt, last, from_memory, filled)
        return filled

    def load_within(self, prompt: Prompt, first: int, room: int, keys: Any, values: Any) -> int:
        """Fill in what a block in memory has in common with block ``first`` of the prompt, at most
        ``room`` tokens; returns how many."""
        block, common = self.residents.nearest(prompt.parent(first), not first, prompt.rest(first))
        count = min(common, room)
        if block is None or not count:
            return 0
        layout = self.packing.layout
        scratch = np.empty((2, *layout.shape(layout.block_tokens)), STORAGE[layout.dtype])
        try:
            self.packing.decode(block.payload, scratch[0], scratch[1], 0)
        except (CorruptBlob, Unsupported):
            self._counts.add(damaged=1)
            self.residents.discard(block.name)
            return 0
        begin = first * layout.block_tokens
        for part, out in zip(scratch, (keys, values), strict=True):
            for layer in range(layout.layers):
                there = out[layer, begin : begin + count]
                _core.copy_tensor(part[layer, :count], layout.dtype, 0, there, layout.dtype)
        self.residents.use(prompt.last, block.name)
        self._counts.add(tokens_asked=count, tokens_from_memory=count)
        return count

    def pin(self, prompt: Prompt, ttl: float | None) -> int:
        """Pin the leading blocks that can be had in memory; returns how many."""
        return self.residents.pin(self._brought(prompt), ttl)

    def hold(self, prompt: Prompt) -> list[Block]:
        """The leading blocks that can be had in memory, held by the last of them."""
        return self.residents.hold(self._brought(prompt))

    # ---- storing ------------------------------------------------------------------------------

    def save(self, prompt: Prompt, keys: Any, values: Any, *, first: int = 0) -> int:
        """Store what is missing; returns how many leading blocks are in memory or below.

        keys, values: of the prompt's tokens from block ``first`` on.
        """
        # Of those who save the same at once the first one does it, and the rest find it done. The
        # last block names the whole; a lock by the first missing one would change under the save.
        with self._save_locks[prompt.last[0] % _SAVE_LOCKS]:
            return self._save(prompt, keys, values, first)

    def admit(
        self, last: bytes, names: bytes, blocks: Sequence[Block], *, promoted: bool = False
    ) -> int:
        """Take successive blocks of the prompt that ends with ``last`` into memory as far as there is
        room; what leaves goes below. names: theirs, one behind the other. Returns how many are in
        memory now."""
        taken, evicted = self.residents.add(last, names, blocks)
        self._counts.add(
            refused=len(blocks) - taken,
            promoted=taken if promoted else 0,
            spilled=self.spill(evicted),
        )
        return taken

    def spill(self, evicted: Sequence[Block]) -> int:
        """Hand below what left memory; returns how many blocks it did not have."""
        unknown = self._unknown(evicted)
        return len(unknown) if unknown and self.below.keep(unknown) else 0

    def flush(self) -> None:
        """Hand below what is only in memory."""
        # The ends of prompts first: what is oldest on disk leaves first there too.
        blocks = sorted(self.residents.all(), key=lambda block: -block.position)
        for first in range(0, len(blocks), self.portion):
            if unknown := self._unknown(blocks[first : first + self.portion]):
                self.below.keep(unknown)

    def move(self, tags: bytes, other: Levels) -> None:
        """Give another pool what this one has with these tags, pins too; what has no room there goes
        below."""
        pins = self.residents.pins(tags)
        for block in reversed(self.residents.clear(tags)):
            if not other.admit(block.name, block.name, [block]):
                other.spill([block])
        for blocks, left in pins:
            other.residents.pin(blocks, None if math.isinf(left) else left)

    def chain(self, tags: bytes, names: Sequence[bytes]) -> list[Block]:
        """Successive blocks from the first of a prompt on, by name, brought into memory as far as
        they are below; for whoever knows that these names follow one another."""
        found: list[Block] = []
        for first in range(0, len(names), self.portion):
            wanted = names[first : first + self.portion]
            parent = found[-1].name if found else tags
            blocks = self._fetcher.chained(tags, parent, len(found), wanted)
            admitted = b"".join(wanted[: len(blocks)])
            found += blocks[: self.admit(names[-1], admitted, blocks, promoted=True)]
            if len(found) < first + len(wanted):
                break
        return found

    def count_foreign(self) -> None:
        """Something under one of our names was not ours."""
        self._counts.add(foreign=1)

    def throw_away(self, block: Block) -> None:
        """Count a block as damaged and forget it, wherever it is."""
        self._counts.add(damaged=1)
        self.residents.discard(block.name)
        self.below.forget([block.name])

    def clear(self, tags: bytes | None) -> None:
        """Forget every block, or every one with these tags, wherever it is."""
        gone = self.residents.clear(tags)
        self.below.forget([block.name for block in gone])
        self.below.forget_tagged(tags)

    # ---- inside ---------------------------------------------------------------------------------

    def _fetched(
        self, prompt: Prompt, first: int, last: int, out: tuple[Any, Any] | None
    ) -> Iterator[list[Block]]:
        """Blocks from first on as the tier has them, verified, decoded into ``out`` and taken into
        memory as far as there is room, a portion at a time, until one is missing or ``last`` is
        reached."""
        room, plan, far = True, None, self.below.far
        while first < last:
            names = prompt.names(first, min(first + self.portion, last))
            known = self.below.known(names)
            near = known.index(False) if False in known else len(known)
            wanted, distant = names[:near], not near and far.shares
            if distant:
                plan = plan or Plan(
                    far.worth, prompt.block_tokens, first, self._run(prompt, first, last)
                )
                end = plan.end(first)
                if end == first:
                    self._counts.add(recomputed=plan.last - first)
                    return
                away = known.index(True) if True in known else len(known)
                wanted = names[: min(end - first, away, self._distant_portion)]
            blocks, own = self._fetcher.fetched(prompt, first, wanted, out, own=room, far=distant)
            # What continues a block that memory refused could not be found there.
            admitted = prompt.digests(first, first + len(own))
            room = room and len(blocks) == self.admit(prompt.last, admitted, own, promoted=True)
            if blocks:
                self._counts.add(tokens_from_far=distant * len(blocks) * prompt.block_tokens)
                yield blocks
            first += len(blocks)
            if len(blocks) < len(wanted) or (near < len(names) and not far.shares):
                return

    def _run(self, prompt: Prompt, first: int, last: int) -> list[int]:
        """Bytes of the blocks from first on as far as they are below: 0 of those that are near."""
        names = prompt.names(first, last)
        known = self.below.known(names)
        sizes = self.below.far.sizes(
            [n for n, there in zip(names, known, strict=True) if not there]
        )
        away = iter(sizes)
        run = []
        for near in known:
            size = 0 if near else next(away)
            if not near and not size:
                break
            run.append(size)
        return run

    def _brought(self, prompt: Prompt) -> list[Block]:
        """The leading blocks in memory, after what is below was read; counts no use."""
        found = len(self.residents.walk(prompt, prompt.blocks))
        for _ in self._fetched(prompt, found, prompt.blocks, None):
            pass
        return self.residents.walk(prompt, prompt.blocks)

    def _count_lookup(self, prompt: Prompt, last: int, from_memory: int, found: int) -> None:
        size = prompt.block_tokens
        self._counts.add(
            lookups=1,
            tokens_asked=size * last,
            tokens_from_memory=size * from_memory,
            tokens_from_tier=size * (found - from_memory),
        )

    def _unknown(self, blocks: Sequence[Block]) -> list[Record]:
        """Records of those blocks that are not below yet, where there is a below to write to."""
        if not blocks or not self.below.writable:
            return []
        known = self.below.known([block.name for block in blocks])
        now_us = time.time_ns() // 1000
        records = []
        for block, there in zip(blocks, known, strict=True):
            if not there:
                records.append(block.record(now_us))
        return records

    def _save(self, prompt: Prompt, keys: Any, values: Any, begin: int) -> int:
        resident = self.residents.walk(prompt, prompt.blocks)
        there = self.below.known(prompt.names(0, prompt.blocks))
        self.below.far.keep(resident)
        if self._at_once:
            self._keep(list(reversed(resident)))
        kept = [at < len(resident) or known for at, known in enumerate(there)]
        begun = max(len(resident), begin)
        if begun < prompt.blocks:
            weight = block_weight(self.packing.likely_bytes, 4 * prompt.block_tokens)
            room, evicted = self.residents.plan(prompt, begun, weight)
            self._counts.add(spilled=self.spill(evicted))
            try:
                self._save_rest(prompt, keys, values, begin, range(begun, begun + room), kept)
            finally:
                self.residents.abandon(prompt.digests(begun, begun + room))
        return kept.index(False) if False in kept else len(kept)

    def _save_rest(
        self, prompt: Prompt, keys: Any, values: Any, begin: int, room: range, kept: list[bool]
    ) -> None:
        """Blocks from the first of ``room`` on, which have their place in memory, to the end of the
        prompt; sets those kept that are in memory or below then."""
        for first in range(room.start, prompt.blocks, self.portion):
            wanted = range(first, min(first + self.portion, prompt.blocks))
            if first >= room.stop and not self.below.writable:
                self._counts.add(refused=prompt.blocks - first)
                break
            try:
                blocks = [
                    self._encoded(prompt, at, keys, values, (at - begin) * prompt.block_tokens)
                    for at in wanted
                    if at in room or (not kept[at] and self.below.writable)
                ]
            except MemoryError:
                self._counts.add(refused=len(wanted))
                break
            inside = sum(block.position in room for block in blocks)
            taken, evicted = self.residents.fill(blocks[:inside])
            if taken < inside:  # it is heavier than was planned, or was cleared meanwhile
                room = range(room.start, first + taken)
            self._counts.add(refused=len(wanted) - taken, spilled=self.spill(evicted))
            for block in blocks[:taken]:
                kept[block.position] = True
            self.below.far.keep(blocks)
            below = blocks if self._at_once else blocks[taken:]
            if self._keep(list(reversed(below))):
                for block in below:
                    kept[block.position] = True
            self._counts.add(saved=sum(kept[block.position] for block in blocks))

    def _keep(self, blocks: Sequence[Block]) -> bool:
        """See to it that the tier has these; True if it has."""
        unknown = self._unknown(blocks)
        return self.below.writable and (
            not unknown or self.below.keep(unknown, durable=self._durable)
        )

    def _encoded(self, prompt: Prompt, position: int, keys: Any, values: Any, first: int) -> Block:
        """Block ``position``, which begins at token ``first`` of two tensors."""
        return Block(
            name=prompt.names(position, position + 1)[0],
            parent=prompt.parent(position),
            position=position,
            tokens=prompt.block(position),
            payload=self.packing.encode(keys, values, first),
            codec=self.packing.codec,
            tags=prompt.root,
        )
