"""The K/V side of the cache: blocks of keys and values by the tokens that led to them."""

from blatam_kv.blocks.counts import KVStoreStats
from blatam_kv.blocks.events import BlockEvent
from blatam_kv.blocks.fork import Fork
from blatam_kv.blocks.layers import LayerLoad
from blatam_kv.blocks.layout import KVLayout
from blatam_kv.blocks.store import KVStore

__all__ = ["BlockEvent", "Fork", "KVLayout", "KVStore", "KVStoreStats", "LayerLoad"]
