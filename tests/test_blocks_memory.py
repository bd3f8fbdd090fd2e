"""What a block takes beside its payload is no more than it is charged."""

from __future__ import annotations

import tracemalloc

from block_fakes import LAYOUT, SIZE, prompt_of, tensors_of

import blatam_kv as kv
from blatam_kv.blocks.block import block_weight

PIECE_BYTES = 64 + 2 * 48


def test_a_block_is_charged_at_least_what_it_takes() -> None:
    count = 2000
    keys, values = tensors_of(prompt_of([1]))
    with kv.KVStore(LAYOUT, capacity_bytes="32MiB") as store:
        store.save_prefix(prompt_of([0]), keys, values)
        native = store._levels.residents.stats().overhead_bytes
        tracemalloc.start()
        for number in range(1, count + 1):
            # Each a prompt of its own, the form that costs most.
            store.save_prefix([number] * SIZE, keys, values)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        native = store._levels.residents.stats().overhead_bytes - native
        assert store.stats().blocks == count + 1
    payload = 4 * 256
    # Payloads lie in the arena; a piece of it is an object and an entry of its lists beside that.
    taken += count * (payload + PIECE_BYTES)
    assert taken + native <= count * block_weight(payload, 4 * SIZE)
