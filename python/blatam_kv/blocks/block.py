"""One block in memory."""

from __future__ import annotations

from blatam_kv._core import Arena
from blatam_kv.record import Bytes, Kind, Record

# What a block weighs beside its payload and twice its tokens (a payload read from disk holds on to
# the record around it): objects, names, the slot, the pin. Measured by tests/test_blocks_memory.py.
BLOCK_OVERHEAD_BYTES = 1152


class Block:
    """One block in memory, encoded. Nothing in it changes.

    name, parent, tags: digests. position: blocks before it. tokens: as in a Record.
    """

    __slots__ = ("codec", "name", "parent", "payload", "position", "tags", "tokens", "weight")

    def __init__(
        self,
        *,
        name: bytes,
        parent: bytes,
        position: int,
        tokens: bytes,
        payload: Bytes,
        codec: str,
        tags: bytes,
    ) -> None:
        self.name, self.parent, self.position = name, parent, position
        self.tokens, self.codec, self.tags = tokens, codec, tags
        self.payload = memoryview(payload).toreadonly()
        self.weight = block_weight(self.payload.nbytes, len(tokens))

    def packed(self, payload: Bytes, codec: str) -> Block:
        """The same block in another codec."""
        return Block(
            name=self.name,
            parent=self.parent,
            position=self.position,
            tokens=self.tokens,
            payload=payload,
            codec=codec,
            tags=self.tags,
        )

    def record(self, now_us: int) -> Record:
        """The same for a tier."""
        return Record(
            key=self.name,
            kind=Kind.BLOCK,
            payload=self.payload,
            tags=self.tags,
            codec=self.codec,
            tokens=self.tokens,
            created_us=now_us,
        )


def block_weight(payload_bytes: int, tokens_bytes: int) -> int:
    """Bytes of memory that a block takes."""
    return Arena.rounded(payload_bytes) + 2 * tokens_bytes + BLOCK_OVERHEAD_BYTES
