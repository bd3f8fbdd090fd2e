"""Sessions of the page: a key exchanged for a cookie that scripts cannot read and that soon ends.

A session names its key and its end, and carries a MAC of both: nothing is kept of it here but, until
their end, the ones that were ended early. What it may do is what its key may at that moment, so
revoking the key ends it too. A request that changes something must also carry the session's token
against forgery in a header, which no other site's page can set.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

COOKIE = "blatam_kv_session"
SECONDS = 1800

_TOKEN = re.compile(
    r"(?P<said>(?P<key_id>[A-Za-z0-9_-]{1,64})\.(?P<ends>[0-9]{1,12})\.[A-Za-z0-9_-]{22})"
    r"\.(?P<mac>[A-Za-z0-9_-]{43})"
)


@dataclass(frozen=True, slots=True)
class Session:
    """token: the cookie's value. forgery_token: what changes must carry. ends: Unix seconds."""

    token: str
    forgery_token: str
    ends: int


class Sessions:
    """Makes sessions and knows them again. Safe from any thread. clock: Unix seconds."""

    def __init__(self, secret: bytes, *, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock
        self._lock = threading.Lock()
        self._ended: dict[str, int] = {}

    def begin(self, key_id: str) -> Session:
        """A session of a key that was proved just now."""
        ends = int(self._clock()) + SECONDS
        said = f"{key_id}.{ends}.{secrets.token_urlsafe(16)}"
        token = f"{said}.{self._mac('session', said)}"
        return Session(token, self._mac("forgery", token), ends)

    def key_of(self, token: str) -> str | None:
        """The key of a session that holds now."""
        found = _TOKEN.fullmatch(token)
        if found is None or not hmac.compare_digest(
            self._mac("session", found["said"]), found["mac"]
        ):
            return None
        if int(found["ends"]) <= self._clock() or token in self._ended:
            return None
        return found["key_id"]

    def seconds_left(self, token: str) -> int:
        """Until a session that holds now ends."""
        return max(0, int(token.split(".")[1]) - int(self._clock()))

    def forgery_token(self, token: str) -> str:
        """What changes under this session must carry."""
        return self._mac("forgery", token)

    def end(self, token: str) -> None:
        """It holds no longer, wherever its cookie is."""
        if self.key_of(token) is None:
            return
        now = self._clock()
        with self._lock:
            self._ended = {each: ends for each, ends in self._ended.items() if ends > now}
            self._ended[token] = int(now) + SECONDS

    def _mac(self, purpose: str, text: str) -> str:
        mac = hmac.digest(self._secret, f"{purpose}\0{text}".encode(), "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def session_in(cookies: str) -> str:
    """The session in the values of Cookie, or nothing. Two are as good as none."""
    found = [
        value.strip()
        for name, _, value in (part.partition("=") for part in cookies.split(";"))
        if name.strip() == COOKIE
    ]
    return found[0] if len(found) == 1 else ""
