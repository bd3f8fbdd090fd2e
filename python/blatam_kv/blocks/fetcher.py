"""What comes up from below: believed only after it was verified, and in memory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

from blatam_kv.blocks.below import Below
from blatam_kv.blocks.block import Block
from blatam_kv.blocks.counts import Counts
from blatam_kv.blocks.payload import Packing
from blatam_kv.blocks.prompt import Prompt
from blatam_kv.errors import CorruptBlob, Unsupported
from blatam_kv.record import Kind, Record


class Fetcher:
    """Blocks from the tier of a store. Safe from any thread; keeps nothing.

    packing: how blocks are in memory. heats: whether what is below in another codec is to be like that
    again.
    """

    def __init__(self, packing: Packing, below: Below, counts: Counts, *, heats: bool) -> None:
        self._packing, self._below, self._counts = packing, below, counts
        self._heats = heats

    def fetched(
        self,
        prompt: Prompt,
        first: int,
        names: Sequence[bytes],
        out: tuple[Any, Any] | None,
        *,
        own: bool,
        far: bool = False,
    ) -> tuple[list[Block], list[Block]]:
        """The blocks of a prompt from ``first`` on with these names, as far as they are below and whole,
        decoded into ``out`` if that is given; and those among them that memory may keep, if it wants
        to: what is only decoded is not copied. The first are of no use but for their number then.

        far: from where other nodes have them.
        """
        below = self._below
        with nullcontext(below.far.fetch(names)) if far else below.borrowed(names) as lent:
            blocks = self._read(prompt, first, names, lent, out)
            mine = self._owned(blocks, out) if own or out is None else []
        return (mine if out is None else blocks), mine

    def chained(
        self, tags: bytes, parent: bytes, position: int, names: Sequence[bytes]
    ) -> list[Block]:
        """The blocks with these names, which follow one another from ``parent`` on, as far as they are
        below."""
        blocks: list[Block] = []
        with self._below.borrowed(names) as lent:
            for record in lent:
                if record is None or record.kind is not Kind.BLOCK or record.tags != tags:
                    break
                blocks.append(_block_of(record, parent, position + len(blocks)))
                parent = record.key
            return self._owned(blocks, None)

    def decoded(self, block: Block, keys: Any, values: Any) -> bool:
        """Put a block where it belongs; False, counted, if it is damaged."""
        try:
            first = block.position * self._packing.layout.block_tokens
            self._packing.decode(block.payload, keys, values, first)
        except (CorruptBlob, Unsupported):
            self._counts.add(damaged=1)
            return False
        return True

    # ---- inside ---------------------------------------------------------------------------------

    def _read(
        self,
        prompt: Prompt,
        first: int,
        names: Sequence[bytes],
        records: Sequence[Record | None],
        out: tuple[Any, Any] | None,
    ) -> list[Block]:
        """The blocks from first on that these records hold, as far as they are whole."""
        blocks: list[Block] = []
        for name, record in zip(names, records, strict=True):
            block = self._believed(record, prompt, first + len(blocks))
            if block is None or (out is not None and not self.decoded(block, *out)):
                if record is not None:
                    self._below.forget([name])
                break
            blocks.append(block)
        return blocks

    def _owned(self, blocks: list[Block], out: tuple[Any, Any] | None) -> list[Block]:
        """Lent blocks as memory wants them, as far as there is any; out: their values, if they are
        there already."""
        own: list[Block] = []
        size, codec = self._packing.layout.block_tokens, self._packing.codec
        with suppress(MemoryError):
            for block in blocks:
                if self._heats and out is not None:
                    payload = self._packing.encode(*out, block.position * size)
                    own.append(block.packed(payload, codec))
                else:
                    own.append(block.packed(self._packing.own(block.payload), block.codec))
        return own

    def _believed(self, record: Record | None, prompt: Prompt, position: int) -> Block | None:
        """The block that a tier's record holds, if it is the one that was asked for."""
        if record is None:
            return None
        tokens = prompt.block(position)
        if (
            record.kind is not Kind.BLOCK
            or record.tags != prompt.root
            or record.tokens != tokens
            or not self._packing.accepts(record.codec)
        ):
            self._counts.add(foreign=1)
            return None
        return _block_of(record, prompt.parent(position), position)


def _block_of(record: Record, parent: bytes, position: int) -> Block:
    """The block that a record holds, still in the record's memory but for its tokens."""
    return Block(
        name=record.key,
        parent=parent,
        position=position,
        tokens=bytes(record.tokens),
        payload=record.payload,
        codec=record.codec,
        tags=record.tags,
    )
