"""Who shares a store: its tenants, and what memory is set aside for each of them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from blatam_kv.blocks.counts import Counts
from blatam_kv.blocks.residents import Residents
from blatam_kv.blocks.tags import checked_salt
from blatam_kv.cache import byte_count
from blatam_kv.errors import ConfigError

if TYPE_CHECKING:
    from blatam_kv.blocks.store import KVStore


class Tenants:
    """The tenants of one store. Safe from any thread.

    store: what they share. pool: makes the memory of one who has some of its own. least_bytes: what
    each pool must have room for.
    """

    def __init__(
        self, store: KVStore, pool: Callable[[int], Residents], *, least_bytes: int
    ) -> None:
        self._store, self._pool, self._least_bytes = store, pool, least_bytes
        # A tenant that nobody holds needs no remembering, but for what is set aside for it.
        self._known: WeakValueDictionary[bytes, KVStore] = WeakValueDictionary()
        self._apart: list[KVStore] = []
        self._lock = threading.RLock()  # guards these two, and who has which pool

    def get(self, salt: bytes, quota_bytes: int | str | None) -> KVStore:
        """As ``KVStore.tenant``."""
        store = self._store
        checked_salt(salt)
        if not salt:
            raise ConfigError("a tenant's salt must not be empty: that is the store without one")
        if salt == store._tags.salt:
            raise ConfigError("this salt is the store's own; use the store itself")
        with self._lock:
            tenant = self._known.get(salt)
            if tenant is None:
                tenant = copy.copy(store)
                tenant._owner = store
                tenant._counts = Counts(whole=store._counts)
                tenant._levels = store._levels.over(store._levels.residents, tenant._counts)
                tenant._binding = store._binding.tenant(salt)
                self._known[salt] = tenant
            if quota_bytes is not None:
                self._set_aside(tenant, byte_count("quota_bytes", quota_bytes))
        return tenant

    def all(self) -> list[KVStore]:
        """Those that somebody holds, and those with memory of their own."""
        with self._lock:
            return list(self._known.values())

    def pools(self) -> list[KVStore]:
        """One for each pool of memory, the store itself first."""
        with self._lock:
            return [self._store, *self._apart]

    def _set_aside(self, tenant: KVStore, quota: int) -> None:
        """Give a tenant a pool of its own of so many bytes, taken from the common one."""
        common, own = self._store._levels, tenant._levels
        apart = own.residents is not common.residents
        held = own.residents.capacity_bytes if apart else 0
        left = common.residents.capacity_bytes + held - quota
        if min(quota, left) < self._least_bytes:
            raise ConfigError(
                f"quota_bytes must leave at least {self._least_bytes}, one block, to the tenant and "
                f"to all others; {quota} leaves {left}"
            )
        evicted = common.residents.resize(left)
        if apart:
            evicted += own.residents.resize(quota)
        else:
            tenant._levels = common.over(self._pool(quota), tenant._counts)
            self._apart.append(tenant)
            tenant._image = tenant._new_image()
            common.move(tenant._tags.digest, tenant._levels)
        common.spill(evicted)
        self._store._news.deliver()
