"""``SharedLimiter``: one limit for all nodes, decided by each node at once.

A request cannot wait for the network. So each node decides by what it knows (``limits``), and settles
with the others through Redis behind the request's back: it adds what it let through to the one
arrival time that all share, and takes over what that has become. While nothing else happens that is
exact; in a burst on several nodes at once each may let through a *lease* before it hears of the
others, so that at most ``(nodes - 1) * lease`` requests too many pass, once. A lease is a quarter of
the limit, or 32 where that is more: as much as a node can let through while one settlement is on its
way, so that no request is refused that a node alone would take.

Without Redis each node keeps to its share of the limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from blatam_kv.bul.security.limits import Limiter, Verdict
from blatam_kv.errors import TierUnavailable
from blatam_kv.tiers.redis import RedisTier

# The same algorithm as in ``limits``: the time is the server's, so that clocks of nodes do not
# matter. Returns how far ahead of now the arrival time is, in microseconds.
_SPEND = """
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
due = due + ARGV[1] * ARGV[2]
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000) + 1)
return string.format('%.0f', due - now)
"""
# What is let through is settled at once, but not more often than this.
_PAUSE_SECONDS = 0.005
_COUNT_SECONDS = 10.0
_FEWEST_LEASED = 32


class SharedLimiter:
    """As ``Limiter``, for all nodes with the same Redis and namespace. Thread-safe; close it.

    limiter: what this node knows. clock: monotonic seconds.
    """

    def __init__(
        self,
        limiter: Limiter,
        tier: RedisTier,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.window = limiter.limit, limiter.window
        self._limiter = limiter
        self._tier = tier
        self._clock = clock
        self._spend = tier.commands.script(_SPEND)
        self._lock = threading.Lock()
        # What was let through and the others do not know of yet, by name, with the name's limit.
        self._unsettled: dict[str, tuple[int, int]] = {}
        self._nodes, self._counted = 1, float("-inf")  # how many there are, and when that was asked
        self._share = 1  # nodes among which the limit is divided, 1 while they settle
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._settle_forever, name="limits", daemon=True)
        self._thread.start()

    def take(self, name: str, *, limit: int | None = None) -> Verdict:
        """Ask for one request. limit: this name's own, in place of the general one."""
        limit = limit or self.limit
        with self._lock:
            spent, _ = self._unsettled.get(name, (0, limit))
            if self._share == 1 and spent >= leased(limit):
                return Verdict(False, limit, 0, self.window / limit, self.window)
            share = max(1, limit // self._share)
        verdict = self._limiter.take(name, limit=share)
        if verdict.allowed:
            with self._lock:
                spent, _ = self._unsettled.get(name, (0, limit))
                self._unsettled[name] = (spent + 1, limit)
            self._news.set()
        return verdict

    def settle(self) -> None:
        """Tell the others what was let through, and take over what they did."""
        with self._lock:
            unsettled, self._unsettled = self._unsettled, {}
        try:
            for name, (spent, limit) in unsettled.items():
                interval = self.window / limit
                ahead = int(self._spend(self._name(name), spent, round(1e6 * interval), "")) / 1e6
                with self._lock:
                    since, _ = self._unsettled.get(name, (0, limit))
                self._limiter.put_off(name, ahead + since * interval)
            self._count_nodes()
        except TierUnavailable:  # counted by the tier; what was not settled is lost
            self._share = self._nodes
        else:
            self._share = 1

    def _count_nodes(self) -> None:
        """Ask who listens to notices, now and then: that many share the limit while Redis is away."""
        if self._clock() - self._counted >= _COUNT_SECONDS:
            listening = self._tier.commands.listening(self._tier.channel)
            self._nodes, self._counted = max(1, listening), self._clock()

    def close(self) -> None:
        """Settle what is left, and end."""
        self._stopped.set()
        self._news.set()
        self._thread.join()

    def __len__(self) -> int:
        return len(self._limiter)

    def _settle_forever(self) -> None:
        while not self._stopped.wait(_PAUSE_SECONDS):
            self._news.wait()
            self._news.clear()
            self.settle()
        self.settle()

    def _name(self, name: str) -> bytes:
        return f"{self._tier.namespace}:limit:{name}".encode()


def leased(limit: int) -> int:
    """How much of a limit a node may let through before the others know."""
    return max(limit // 4, min(limit, _FEWEST_LEASED))
