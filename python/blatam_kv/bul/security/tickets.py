"""Tickets: what a browser shows where it cannot send a header, as when it opens a WebSocket.

Whoever has a key gets one for the asking; it stands for that key, once, for half a minute. It is
proved by a MAC under a key derived from the master secret, so any node takes what another has made,
and nothing is kept but the nonces of those that were used here.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from blatam_kv.bul.security.nonces import Nonces
from blatam_kv.signature import Keyed

LIFE_SECONDS = 30
_TICKET = re.compile(
    r"(?P<text>(?P<key_id>[a-z0-9]{1,64})\.(?P<until>[0-9]{1,12})\.(?P<nonce>[0-9a-f]{32}))"
    r"\.(?P<mac>[0-9a-f]{64})"
)


class Tickets:
    """Makes and takes them. Safe from any thread. seconds: Unix time, ticks: never going back."""

    def __init__(
        self,
        key: Keyed,
        *,
        seconds: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._seconds = seconds
        self._used = Nonces(2 * LIFE_SECONDS, clock=ticks)

    def make(self, key_id: str) -> str:
        """One for a key, good from now on."""
        text = f"{key_id}.{int(self._seconds()) + LIFE_SECONDS}.{secrets.token_hex(16)}"
        return f"{text}.{self._mac(text)}"

    def take(self, ticket: str) -> str | None:
        """The key that it stands for; None if it is none, too old, or was taken before."""
        found = _TICKET.fullmatch(ticket)
        if found is None or not secrets.compare_digest(self._mac(found["text"]), found["mac"]):
            return None
        if int(found["until"]) < self._seconds():
            return None
        return found["key_id"] if self._used.use(found["key_id"], found["nonce"]) else None

    def _mac(self, text: str) -> str:
        mac = self._key.copy()
        mac.update(text.encode())
        return mac.hexdigest()
