"""What ``codec="auto"`` has below memory: a tier whose blocks are in a smaller codec than memory's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from blatam_kv.blocks.payload import Packing
from blatam_kv.errors import CorruptBlob, Unsupported
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import Tier
from blatam_kv.tiers.protocol import borrowed


class Cold:
    """A Tier that encodes blocks anew on their way down. Thread-safe.

    tier: where they go; closed with this one. packing: how they are there. damaged: called for each
    block that fails verification and is therefore not written.
    """

    def __init__(self, tier: Tier, packing: Packing, damaged: Callable[[], None]) -> None:
        self._tier, self._packing, self._damaged = tier, packing, damaged

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """As the tier has them."""
        return self._tier.get_many(keys)

    def borrow_many(self, keys: Sequence[bytes]) -> AbstractContextManager[Sequence[Record | None]]:
        """The same without a copy, where the tier can."""
        return borrowed(self._tier, keys)

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Encode and store; returns how many."""
        return self._tier.put_many(cooled(records, self._packing, self._damaged), durable=durable)

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """As of the tier."""
        return self._tier.delete_many(keys)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """As of the tier."""
        return self._tier.contains_many(keys)

    def close(self) -> None:
        """Close the tier."""
        self._tier.close()


def cooled(
    records: Iterable[Record], packing: Packing, damaged: Callable[[], None]
) -> Iterator[Record]:
    """These records with their blocks as the packing writes them; damaged: as in ``Cold``."""
    for record in records:
        if record.kind is not Kind.BLOCK or record.codec == packing.codec:
            yield record
            continue
        try:
            payload = packing.repacked(record.payload)
        except (CorruptBlob, Unsupported):
            damaged()
            continue
        yield replace(record, payload=payload, codec=packing.codec)
