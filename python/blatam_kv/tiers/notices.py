"""``Notices``: what nodes tell one another through the Redis they share.

A notice is a kind of one letter and a key. It is a hint, never the only way to learn something:
Redis forgets whoever is not connected at the moment. Who missed some is told so.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from blatam_kv.errors import ConfigError, TierUnavailable
from blatam_kv.tiers.redis import RedisTier

log = logging.getLogger("blatam_kv.tiers")

_NODE_BYTES = 8
# How long the subscription waits at a time: what a close may take. And the pauses between tries to
# connect again, the first and the longest.
_WAIT_SECONDS = 0.25
_PAUSE_SECONDS, _LONGEST_SECONDS = 0.25, 8.0


class Notices:
    """Tells the other nodes, and hears them. Thread-safe; close it when done.

    heard: called with kind and key of each notice of another node, by a thread of this object.
    missed: called by it whenever it listens (again), for what came before was not heard.
    """

    def __init__(
        self,
        tier: RedisTier,
        *,
        heard: Callable[[str, bytes], object],
        missed: Callable[[], object],
    ) -> None:
        self._tier = tier
        self._heard, self._missed = heard, missed
        self._channel = tier.channel
        self._node = secrets.token_bytes(_NODE_BYTES)
        self._stopped = threading.Event()
        self.listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="notices", daemon=True)
        self._thread.start()

    def tell(self, kind: str, key: bytes = b"") -> None:
        """Tell the others; where Redis is away nobody hears."""
        if len(kind) != 1 or not kind.isascii():
            raise ConfigError("a kind of notice is one letter")
        with suppress(TierUnavailable):  # counted by the tier
            self._tier.ask("publish", self._channel, self._node + kind.encode() + key)

    def close(self) -> None:
        """Hear nothing more."""
        self._stopped.set()
        self._thread.join()

    def _listen(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._stopped.is_set():
            subscription = self._tier.listen()
            try:
                subscription.subscribe(self._channel)
                while not self._stopped.is_set():
                    message = subscription.get_message(timeout=_WAIT_SECONDS)
                    # redis-py connects again by itself, and says so by another of these.
                    if message is not None and message["type"] == "subscribe":
                        self._call(self._missed)
                        self.listening.set()
                        pause = _PAUSE_SECONDS
                    elif message is not None and message["type"] == "message":
                        self._take(message["data"])
            except self._tier.errors:
                self.listening.clear()
                self._stopped.wait(pause)
                pause = min(2 * pause, _LONGEST_SECONDS)
            finally:
                with suppress(*self._tier.errors):
                    subscription.close()

    def _take(self, data: bytes) -> None:
        node, kind, key = (
            data[:_NODE_BYTES],
            data[_NODE_BYTES : _NODE_BYTES + 1],
            data[_NODE_BYTES + 1 :],
        )
        if kind and node != self._node:
            self._call(self._heard, kind.decode("latin-1"), key)

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:  # the next notice is heard, whatever this one led to
            log.exception("a notice led to an error")
