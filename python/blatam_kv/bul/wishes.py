"""What one request wants of the cache: not to look, not to keep, nothing older, for so long.

HTTP says it in ``Cache-Control`` (RFC 9111), LiteLLM's clients in the body's ``cache``; both count,
and where they differ the stricter one holds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from blatam_kv.errors import MissingExtra

try:
    from pydantic import BaseModel, ConfigDict, Field
except ImportError as error:
    raise MissingExtra("pydantic", extra="server") from error

# Nothing is kept for longer on a caller's word.
MAX_TTL = 30 * 86_400
_PERSON = b"blatamkv-key-v1"
_TAG_BYTES = 16
_KEY = re.compile(r"[A-Za-z0-9_-]{64}")
_SECONDS = re.compile(r"[0-9]{1,9}")


class CacheWishes(BaseModel):
    """LiteLLM's words for one request.

    no-cache does not look, no-store does not keep either; ttl: seconds to keep the answer for;
    s-maxage: seconds that a cached one may be old; namespace: answers of its own.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    no_cache: Annotated[bool, Field(alias="no-cache")] = False
    no_store: Annotated[bool, Field(alias="no-store")] = False
    ttl: Annotated[float, Field(gt=0, le=MAX_TTL)] | None = None
    s_maxage: Annotated[Annotated[float, Field(ge=0)] | None, Field(alias="s-maxage")] = None
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """The same, worked out. max_age: of a cached answer in seconds. ttl: None for the usual one."""

    look: bool = True
    keep: bool = True
    max_age: float | None = None
    ttl: float | None = None
    only_if_cached: bool = False

    @property
    def shared(self) -> bool:
        """Whether any answer that the cache may have, or will, is good enough."""
        return self.look and self.keep and self.max_age is None and self.ttl is None

    def body(self, namespace: str | None) -> CacheWishes:
        """The same as a body says it, but for only-if-cached, which no work is left of."""
        words = {"no-cache": not self.look, "no-store": not self.keep, "ttl": self.ttl}
        return CacheWishes(**words, **{"s-maxage": self.max_age, "namespace": namespace})  # type: ignore[arg-type]

    def take(self, age: float) -> bool:
        """Whether a cached answer of that age will do."""
        return self.look and (self.max_age is None or age <= self.max_age)


USUAL = Wishes()


def wishes_of(body: CacheWishes | None, header: str) -> Wishes:
    """What a request wants. header: all of Cache-Control; words that mean nothing here do nothing."""
    return USUAL if body is None and not header else _worked_out(body, header)


@lru_cache(maxsize=256)
def _worked_out(body: CacheWishes | None, header: str) -> Wishes:
    said = body or CacheWishes()
    words = {}
    for word in header[:1000].split(","):
        name, _, value = word.strip().lower().partition("=")
        words[name] = value.strip().strip('"')
    no_store = said.no_store or "no-store" in words
    ages = [] if said.s_maxage is None else [said.s_maxage]
    if _SECONDS.fullmatch(words.get("max-age", "")):
        ages.append(float(words["max-age"]))
    return Wishes(
        look=not (no_store or said.no_cache or "no-cache" in words),
        keep=not no_store,
        max_age=min(ages) if ages else None,
        ttl=said.ttl,
        only_if_cached="only-if-cached" in words,
    )


def cache_key(digest: bytes, salt: bytes) -> str:
    """The name that a tenant has for an answer in the cache: its digest, and a proof that it is the
    tenant's own."""
    return base64.urlsafe_b64encode(digest + _tag(digest, salt)).decode()


def digest_of(key: str, salt: bytes) -> bytes | None:
    """The digest behind a name; None if it is not one of this tenant's."""
    if not _KEY.fullmatch(key):
        return None
    content = base64.urlsafe_b64decode(key)
    digest, tag = content[:-_TAG_BYTES], content[-_TAG_BYTES:]
    return digest if hmac.compare_digest(tag, _tag(digest, salt)) else None


def _tag(digest: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(digest, digest_size=_TAG_BYTES, key=salt, person=_PERSON).digest()
