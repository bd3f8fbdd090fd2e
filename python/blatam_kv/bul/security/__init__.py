"""Who may do what: secrets, keys, signatures, limits, scopes, and the log of refusals.

The stages are in the order that the system was drawn in: ``guard`` proves who asks (a signature or
an API key) and limits how often; the request is then read and cleaned (``bul.request``); ``guard``
says whether the caller may. What is missing, unknown or in doubt is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from blatam_kv.bul.security.audit import AuditLog
from blatam_kv.bul.security.guard import Guard
from blatam_kv.bul.security.keys import KeyRing
from blatam_kv.bul.security.limits import Limiter
from blatam_kv.bul.security.master import load_master
from blatam_kv.bul.security.shared_limits import SharedLimiter
from blatam_kv.config import Settings
from blatam_kv.tiers.redis import RedisTier

__all__ = ["make_guard", "open_keys"]


def open_keys(settings: Settings) -> KeyRing:
    """The keys in the data directory. Raises ConfigError."""
    return KeyRing(settings.data_dir, load_master(settings.data_dir, settings.hmac_secret))


def make_guard(
    settings: Settings,
    keys: KeyRing,
    *,
    count: Callable[[str, str], None],
    redis: RedisTier | None = None,
) -> Guard:
    """The guard of a service. count: told stage and reason of each refusal. redis: where nodes settle
    what they let through, None for a node that is alone."""
    limiter: Limiter | SharedLimiter | None = None
    if settings.rate_limit_enabled:
        limiter = Limiter(settings.rate_limit_requests, settings.rate_limit_window)
        if redis is not None:
            limiter = SharedLimiter(limiter, redis)
    return Guard(keys, limiter=limiter, audit=AuditLog(settings.data_dir), count=count)
