"""A store's blocks by name and as records, for what keeps copies of them nearer to a device."""

from __future__ import annotations

import time
from typing import Any

from blatam_kv.blocks.store import KVStore
from blatam_kv.record import Record


def names_of(store: KVStore, tokens: Any) -> list[bytes]:
    """The names of the whole blocks of a prompt. Raises as ``KVStore.match_prefix``."""
    prompt = store._prompt(tokens)
    return prompt.names(0, prompt.blocks)


def records_of(store: KVStore, tokens: Any, *, first: int) -> list[Record]:
    """Blocks of a prompt from ``first`` on, as far as the store has all before them: in memory, or read
    into it from below. It is a use of each of them; none is decoded."""
    prompt = store._prompt(tokens)
    blocks = store._levels.here(prompt, prompt.blocks)
    store._news.deliver()
    now_us = time.time_ns() // 1000
    return [block.record(now_us) for block in blocks[first:]]
