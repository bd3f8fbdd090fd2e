"""Who asks: the tenant a request was proved to come from, and what it may do.

A caller is made by ``security`` from a verified key, never from anything a request says of itself.
Everything a tenant owns (answers, writings, tasks, documents, totals) is kept under its name, and
its answers under digests keyed by its salt, so that no other tenant can name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a key may do. A role is a set of these."""

    WRITE = "documents:write"  # ask for documents, cancel tasks
    READ = "documents:read"  # read one's tasks and documents
    CHAT = "chat"  # the OpenAI-compatible endpoints
    METRICS = "metrics:read"  # /metrics, and totals of the tenant
    ADMIN = "admin"  # totals of all tenants, clear, keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A tenant, and the key it used. salt: 32 bytes that key the digests of all it asks."""

    tenant: str
    key_id: str
    scopes: frozenset[Scope]
    salt: bytes

    def may(self, scope: Scope) -> bool:
        """Whether the key allows it. ADMIN allows everything."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


# The program itself, where a Service is used from Python and nobody else can ask.
ITSELF = Caller(tenant="local", key_id="local", scopes=frozenset(Scope), salt=bytes(32))
