"""``Leases``: of all nodes that want to do the same, one does.

A lease is a key in the Redis that the nodes share, which goes away by itself: a node that dies holds
up the others for ``seconds`` at most, and one that lives renews its leases however long its work
takes. Each carries a token of its own, so that a holder that was too slow to renew cannot end the
lease of its successor.

Short leases would be lost by holders that live and are slow, long ones hold up everybody. So they are
long, and a dead holder's is ended by who waits for it, on two signs together: it was not renewed lately,
by the server's own clock, and Redis has no connection of the holder's any more, as it sees at once when a
process ends, however it ends. A holder that is paused keeps its connection, one that lost its
connection renews; neither loses its lease before ``seconds``. That is left for what says nothing
when it goes: a machine without power, a line that is cut.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from blatam_kv.errors import ConfigError, TierUnavailable
from blatam_kv.tiers.redis import RedisTier

_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_END = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
# Who holds a lease that nobody renewed lately: less than so many milliseconds are left of it.
_SILENT = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then return redis.call('GET', KEYS[1]) end
return false
"""
_BURY = """
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    return redis.call('DEL', KEYS[1])
end
return 0
"""
# How often a lease is renewed, if it is not shorter than three of them; after two it is not renewed lately.
_RENEW_SECONDS = 0.5


class Leases:
    """The leases of one node. Thread-safe; one thread renews them all, from the first on.

    seconds: how long a lease outlives its holder, at most. node: this node's name. gone: whether the
    node of a name has no connection to Redis any more; False where that cannot be said.
    """

    def __init__(
        self,
        tier: RedisTier,
        *,
        seconds: float = 10.0,
        node: str = "",
        gone: Callable[[str], bool] = lambda node: False,
    ) -> None:
        if not 0.01 <= seconds <= 3600:
            raise ConfigError(f"seconds must be from 0.01 to 3600, not {seconds}")
        self._tier = tier
        self._node, self._gone = node, gone
        self._milliseconds = max(1, int(1000 * seconds))
        self._renew_seconds = min(_RENEW_SECONDS, seconds / 3)
        self._silent_below = self._milliseconds - int(2000 * self._renew_seconds)
        self._renew, self._end = tier.commands.script(_RENEW), tier.commands.script(_END)
        self._silent, self._bury = tier.commands.script(_SILENT), tier.commands.script(_BURY)
        self._lock = threading.Lock()
        self._held: dict[bytes, str] = {}
        self._stopped = threading.Event()
        self._keeper: threading.Thread | None = None

    def take(self, key: bytes) -> bool:
        """Whether the lease of a key is this node's now. Raises TierUnavailable."""
        token = f"{self._node}:{secrets.token_hex(16)}"
        name = self._name(key)
        if not self._tier.ask("set", name, token, nx=True, px=self._milliseconds):
            return False
        with self._lock:
            self._held[key] = token
            if self._keeper is None and not self._stopped.is_set():
                self._keeper = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._keeper.start()
        return True

    def end(self, key: bytes) -> None:
        """Let go of a lease. Where Redis is away it ends by itself."""
        with self._lock:
            token = self._held.pop(key, None)
        if token is not None:
            with suppress(TierUnavailable):  # counted by the tier
                self._end(self._name(key), token)

    def bury(self, key: bytes) -> bool:
        """End the lease of a holder that is dead; whether there was one. Never raises: where Redis is
        away, or does not let its user do this, the lease ends by itself."""
        name = self._name(key)
        try:
            holder: bytes | None = self._silent(name, self._silent_below)
            if holder is None:
                return False
            node = holder.decode("latin-1").rpartition(":")[0]
            if not node or not self._gone(node):
                return False
            # It may have renewed while others were asked about it.
            return bool(self._bury(name, holder, self._silent_below))
        except TierUnavailable:  # counted by the tier
            return False

    def renew(self) -> int:
        """Renew all that are held; returns how many still were this node's."""
        with self._lock:
            held = list(self._held.items())
        kept = 0
        for key, token in held:
            try:
                kept += self._renew(self._name(key), token, self._milliseconds)
            except TierUnavailable:
                break  # the next round tries again
        return kept

    def close(self) -> None:
        """End every lease that is held."""
        self._stopped.set()
        if self._keeper is not None:
            self._keeper.join()
        for key in list(self._held):
            self.end(key)

    def _keep(self) -> None:
        while not self._stopped.wait(self._renew_seconds):
            self.renew()

    def _name(self, key: bytes) -> bytes:
        return f"{self._tier.namespace}:lease:{key.hex()}".encode()
