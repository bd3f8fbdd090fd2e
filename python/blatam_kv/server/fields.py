"""The header fields of a request, read in one walk for all who look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

# The method of a door that is a WebSocket.
WEBSOCKET = "WEBSOCKET"
_MEMO = "blatam_kv.fields"
Fields = Mapping[bytes, Sequence[str]]


def fields(scope: Any) -> Fields:  # Any: an ASGI scope, a dict of many types
    """All values of each field, by its name in lower case. Worked out once for a request."""
    found: dict[bytes, list[str]] | None = scope.get(_MEMO)
    if found is None:
        scope[_MEMO] = found = {}
        for name, value in scope["headers"]:
            text = value.decode("latin-1")
            if name in found:
                found[name].append(text)
            else:
                found[name] = [text]
    return found


def field(scope: Any, name: bytes) -> str:
    """The first value of a field, "" without one."""
    values = fields(scope).get(name)
    return values[0] if values else ""


# Ids tell requests and answers apart; they need not be secret, and the system's generator costs a
# system call each.
_random = Random()


def new_id(size: int) -> str:
    """So many random bytes in hexadecimal, as a name."""
    return f"{_random.getrandbits(8 * size):0{2 * size}x}"
