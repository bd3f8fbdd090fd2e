"""How a model that runs here uses a store of blocks: bound to it, and never failed by it.

A prefix that was computed before saves its part of prefill. A store that is of another layout,
closed or otherwise unusable costs that saving and nothing else: the model computes, a warning says
why, and a counter counts.
"""

from __future__ import annotations

import logging
import threading

from blatam_kv.blocks import KVLayout, KVStore
from blatam_kv.config import Settings
from blatam_kv.errors import Error, TierUnavailable, Unavailable, Unsupported
from blatam_kv.record import record_bytes
from blatam_kv.tiers.redis import RedisTier
from blatam_kv.truthgpt.decoder import CHUNK, Memory
from blatam_kv.truthgpt.protocol import KeepsPrefixes, PrefixStore, Tokens

log = logging.getLogger("blatam_kv.truthgpt")

FOLDER = "blocks"  # in the data directory
NAMESPACE = "blatam-kv:blocks"  # in Redis
# How long a block stays there at most, and how long Redis may be silent: what is waited for is
# megabytes, and what is saved by it seconds.
SHARED_SECONDS, SHARED_TIMEOUT = 86400.0, 0.5


class Prefixes:
    """One model's use of one store. Safe from any thread.

    fingerprint: the model's; a store that is bound to another one is not used. salt: a tenant's, for
    its part of the store. failures: calls that the store refused.
    """

    def __init__(self, store: PrefixStore, fingerprint: str, *, salt: bytes = b"") -> None:
        self._store = store
        self._lock = threading.Lock()
        self.failures = 0
        try:
            self._usable = store.bind(fingerprint)
            if salt:
                self._store = store.tenant(salt)
        except Error as error:
            self._failed(error)
            self._usable = False

    def recall(self, tokens: Tokens, memory: Memory) -> tuple[int, int]:
        """Fill the memory from the front.

        Returns the tokens that need not be computed, and those that need not be stored again; the
        first are whole chunks before the one that holds the last token, whose logits are wanted.
        """
        if not self._usable or len(tokens) < CHUNK:
            return 0, 0
        try:
            stored = self._store.match_prefix(tokens)
            wanted = min(stored, reusable(len(tokens))) // CHUNK * CHUNK
            if not wanted:
                return 0, stored
            out = memory.keys[:, :wanted], memory.values[:, :wanted]
            # Blocks may have gone since they were matched: the second answer is the one that counts.
            loaded = self._store.load_prefix(tokens, out=out) // CHUNK * CHUNK
        except Error as error:
            self._failed(error)
            return 0, 0
        return loaded, stored if loaded == wanted else loaded

    def remember(self, tokens: Tokens, memory: Memory, stored: int) -> None:
        """Hand the prompt's whole blocks to the store, if it has not got them all."""
        whole = len(tokens) // CHUNK * CHUNK
        if not self._usable or whole <= stored:
            return
        try:
            self._store.save_prefix(
                tokens[:whole], memory.keys[:, :whole], memory.values[:, :whole]
            )
        except Error as error:
            self._failed(error)

    def computed(self, tokens: int, seconds: float) -> None:
        """Tell the store what reading the rest of a prompt took."""
        if self._usable:
            self._store.observe(tokens, seconds)

    def _failed(self, error: Error) -> None:
        with self._lock:
            self.failures += 1
            first = self.failures == 1
        log.log(logging.WARNING if first else logging.DEBUG, "prefixes are not reused: %s", error)


def reusable(tokens: int) -> int:
    """Tokens of whole chunks before the chunk that holds the last token."""
    return (tokens - 1) // CHUNK * CHUNK


def open_store(
    model: KeepsPrefixes, settings: Settings, *, mac_key: bytes | None = None
) -> KVStore | None:
    """A store for this model as the settings want it, in the model's use; None if they want none or
    the model's prefixes cannot be kept, which a warning says. mac_key: what blocks are signed with
    that nodes share.

    A folder that another process is writing is read beside it, with a warning. Raises ConfigError
    for sizes that do not fit the model, and TierUnavailable for a folder that cannot be used.
    """
    if not settings.kv_memory_mb:
        return None
    try:
        layers, kv_heads, head_dim = model.kv_shape
    except Unsupported as reason:
        log.warning("prefixes are not kept: %s", reason)
        return None
    layout = KVLayout(layers=layers, kv_heads=kv_heads, head_dim=head_dim, dtype=model.kv_dtype)
    path = settings.data_dir / FOLDER if settings.kv_disk_mb != 0 else None
    disk_bytes = settings.kv_disk_mb << 20 if settings.kv_disk_mb else None

    shared = settings.kv_redis_url

    def opened(*, read_only: bool) -> KVStore:
        return KVStore(
            layout,
            capacity_bytes=settings.kv_memory_mb << 20,
            path=path,
            disk_bytes=None if read_only else disk_bytes,
            codec=settings.kv_codec,
            model=model.fingerprint,
            policy=settings.kv_policy,
            shared=None if shared is None else _redis(shared.reveal(), layout, mac_key),
            read_only=read_only,
        )

    try:
        store = opened(read_only=False)
    except TierUnavailable as error:
        if error.reason is not Unavailable.IN_USE:
            raise
        log.warning("%s; its blocks are read, and what is computed here stays in memory", error)
        store = opened(read_only=True)
    model.keep_prefixes(store)
    return store


def _redis(url: str, layout: KVLayout, mac_key: bytes | None) -> RedisTier:
    """Where nodes share blocks, apart from answers. Raises ConfigError, MissingExtra."""
    # No codec takes much more than the values themselves.
    most = 2 * record_bytes(layout.block_tokens, layout.block_bytes, has_mac=True)
    return RedisTier(
        url,
        namespace=NAMESPACE,
        ttl=SHARED_SECONDS,
        timeout=SHARED_TIMEOUT,
        record_bytes=most,
        mac_key=mac_key,
    )
