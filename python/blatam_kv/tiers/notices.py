"""``Notices``: what nodes tell one another through the Redis they share.

A notice is a kind of one letter and a key. It is a hint, never the only way to learn something:
Redis forgets whoever is not connected at the moment. Who missed some is told so.

Each node also listens to a channel that is its own, where nothing is ever said: that somebody does is how
the others see that it lives. The connection ends with the process.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from blatam_kv.errors import ConfigError, TierUnavailable
from blatam_kv.tiers.redis import RedisTier

log = logging.getLogger("blatam_kv.tiers")

_NODE_BYTES = 8
# How long the subscription waits at a time: what a close may take. How often it asks whether Redis
# is still there, and how long it takes silence for an answer. And the pauses between tries to connect
# again, the first and the longest.
_WAIT_SECONDS = 0.25
_ASK_SECONDS, _SILENCE_SECONDS = 1.0, 3.0
_PAUSE_SECONDS, _LONGEST_SECONDS = 0.25, 8.0
# How long a node must have listened before it calls others gone: a Redis that was away has yet to hear
# from all of them.
SETTLED_SECONDS = 5.0


class Notices:
    """Tells the other nodes, and hears them. Thread-safe; close it when done.

    heard: called with kind and key of each notice of another node, by a thread of this object.
    missed: called by it whenever it listens (again), for what came before was not heard. idle: called by
    it now and then while it listens. settled: seconds that it must have listened to tell who is gone.
    """

    def __init__(
        self,
        tier: RedisTier,
        *,
        heard: Callable[[str, bytes], object],
        missed: Callable[[], object],
        idle: Callable[[], object] = lambda: None,
        settled: float = SETTLED_SECONDS,
    ) -> None:
        self._tier = tier
        self._heard, self._missed, self._idle = heard, missed, idle
        self._channel = tier.channel
        self._node = secrets.token_bytes(_NODE_BYTES)
        self.node = self._node.hex()
        self._mine = self._channel_of(self.node)
        self._settled = settled
        self._since: float | None = None  # when it began to listen, if it does
        self._stopped = threading.Event()
        self.listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="notices", daemon=True)
        self._thread.start()

    def tell(self, kind: str, key: bytes = b"") -> None:
        """Tell the others; where Redis is away nobody hears."""
        if len(kind) != 1 or not kind.isascii():
            raise ConfigError("a kind of notice is one letter")
        with suppress(TierUnavailable):  # counted by the tier
            self._tier.commands.publish(self._node + kind.encode() + key)

    def gone(self, node: str) -> bool:
        """Whether the node of a name has no connection any more. False where this one cannot know: it
        does not listen, or has not for long."""
        since = self._since
        if since is None or time.monotonic() - since < self._settled:
            return False
        try:
            return self._tier.commands.listening(self._channel_of(node)) == 0
        except TierUnavailable:  # counted by the tier
            return False

    def close(self) -> None:
        """Hear nothing more."""
        self._stopped.set()
        self._thread.join()

    def _listen(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._stopped.is_set():
            subscription = None
            try:
                subscription = self._tier.commands.listen()
                subscription.subscribe(self._mine, self._channel)
                asked = heard = time.monotonic()
                while not self._stopped.is_set():
                    message = subscription.get_message(timeout=_WAIT_SECONDS)
                    now = time.monotonic()
                    if message is not None:
                        heard = now
                        if message["type"] == "subscribe":  # redis-py connects again by itself
                            if message["channel"] != self._channel:
                                continue
                            self._since = now
                            self._tier.commands.found()
                            self._call(self._missed)
                            self.listening.set()
                            pause = _PAUSE_SECONDS
                        elif message["type"] == "message":
                            self._take(message["data"])
                    else:
                        self._call(self._idle)
                    if now - heard > _SILENCE_SECONDS:
                        raise OSError("Redis is silent")
                    if now - asked > _ASK_SECONDS:
                        subscription.ping()
                        asked = now
            except self._tier.commands.errors as error:
                self._since = None
                self._tier.commands.lost(error)
                self.listening.clear()
                self._stopped.wait(pause)
                pause = min(2 * pause, _LONGEST_SECONDS)
            finally:
                if subscription is not None:
                    with suppress(*self._tier.commands.errors):
                        subscription.close()

    def _channel_of(self, node: str) -> bytes:
        return self._channel + b":" + node.encode()

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
