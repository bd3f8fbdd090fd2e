"""What a caller is told of its limits, in two dialects.

``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers) everywhere, and under
``/v1/`` OpenAI's ``x-ratelimit-…-requests`` as well. Tokens are not limited, so nothing is said of
them.
"""

from __future__ import annotations

import math
from functools import lru_cache

from blatam_kv.bul.security.limits import Verdict

Pairs = list[tuple[bytes, bytes]]


def limit_fields(path: str, verdict: Verdict, policy: str, window: float) -> Pairs:
    """What is left after a request that was let through."""
    limit, left, reset = verdict.limit, verdict.left, math.ceil(verdict.reset)
    pairs = [
        _policy(policy, limit, window),
        (b"ratelimit", b'"%b";r=%d;t=%d' % (policy.encode(), left, reset)),
    ]
    if path.startswith("/v1/"):
        pairs += (
            (b"x-ratelimit-limit-requests", b"%d" % limit),
            (b"x-ratelimit-remaining-requests", b"%d" % left),
            (b"x-ratelimit-reset-requests", _duration(reset)),
        )
    return pairs


def violated(path: str, verdict: Verdict, policy: str, window: float) -> dict[str, str]:
    """The same for a request that was one too many: nothing is left, and ``t`` is when one more
    would pass, so that Retry-After is never earlier."""
    again = verdict._replace(left=0, reset=verdict.retry_after)
    pairs = limit_fields(path, again, policy, window)
    return {name.decode(): value.decode() for name, value in pairs}


@lru_cache(maxsize=256)
def _policy(policy: str, limit: int, window: float) -> tuple[bytes, bytes]:
    return b"ratelimit-policy", f'"{policy}";q={limit};w={window:g}'.encode()


def _duration(seconds: int) -> bytes:
    """As OpenAI writes it: 1s, 6m0s."""
    minutes, rest = divmod(seconds, 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
