"""The guard: who asks, how often, and whether they may. It believes nothing and explains little.

Every failure of authentication gets one answer, whatever its cause; the cause goes to the audit log
and the metrics. A header is judged before a body is read, and a body by its digest before anything
looks into it.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from blatam_kv.bul.caller import ITSELF, Caller, Scope
from blatam_kv.bul.security.audit import AuditLog
from blatam_kv.bul.security.keys import KeyRing, Known, Network
from blatam_kv.bul.security.limits import Limiter, Verdict
from blatam_kv.bul.security.nonces import Nonces
from blatam_kv.bul.security.sessions import Sessions
from blatam_kv.bul.security.shared_limits import SharedLimiter
from blatam_kv.bul.security.tickets import Tickets
from blatam_kv.errors import ConfigError
from blatam_kv.signature import WINDOW_SECONDS, BadSignature, Claim, Parts, content_digest, keyed

# Failed attempts of one address a minute that are answered and written down one by one.
_FAILURES, _FAILURE_WINDOW = 30, 60.0
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# What the signatures of unknown keys are compared with.
_NOBODY = keyed(bytes(32))
_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")


class Cause(StrEnum):
    """Why a request was refused; the label of a metric, never part of an answer."""

    NO_CREDENTIALS = "no_credentials"
    TWO_CREDENTIALS = "two_credentials"
    BAD_API_KEY = "bad_api_key"
    BAD_TICKET = "bad_ticket"
    MALFORMED = "malformed_signature"
    UNKNOWN_KEY = "unknown_key"
    STALE = "stale"
    WRONG_SIGNATURE = "wrong_signature"
    WRONG_DIGEST = "wrong_digest"
    REPLAYED = "replayed"
    NETWORK = "network"
    TOO_MANY_FAILURES = "too_many_failures"
    RATE = "rate"
    SCOPE = "scope"
    FORGED = "forged"
    KEYS_UNREADABLE = "keys_unreadable"


class Refusal(Exception):
    """A request is not served. status: 401, 403, 429 or 503. retry_after: seconds, for the last two.
    verdict: of the limit that was exceeded."""

    def __init__(
        self,
        status: int,
        detail: str,
        cause: Cause,
        *,
        retry_after: int = 0,
        verdict: Verdict | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.cause = cause
        self.retry_after = retry_after
        self.verdict = verdict


class Request(NamedTuple):
    """What of a request the guard looks at. Headers as lists of all their values; query with its
    ``?``; address: of the client, behind trusted proxies the one they name. ticket: where a door takes
    one. session: of the page's cookie, which counts where nothing else is given; forgery_token: of its
    header."""

    method: str
    authority: str
    path: str
    query: str
    address: str
    api_keys: Sequence[str]
    authorizations: Sequence[str]
    signature_inputs: Sequence[str]
    signatures: Sequence[str]
    content_types: Sequence[str]
    content_digests: Sequence[str]
    has_body: bool
    ticket: str | None = None
    session: str = ""
    forgery_token: str = ""


class Pending(NamedTuple):
    """A signature whose body is still to come."""

    known: Known
    claim: Claim
    digest: str


class Guard:
    """The first, second and fourth stage. Safe from any thread.

    limiter: of requests, by tenant and class of route; None lets everyone ask as often as they
    like. seconds: Unix time, and ticks: seconds that never go back; both for tests.
    """

    def __init__(
        self,
        keys: KeyRing,
        *,
        limiter: Limiter | SharedLimiter | None,
        audit: AuditLog,
        count: Callable[[str, str], None] = lambda stage, reason: None,
        seconds: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self.tickets = Tickets(keys.keyed("blatam-kv/ticket/v1"), seconds=seconds, ticks=ticks)
        self._limiter = limiter
        self._audit = audit
        self._count = count
        self._seconds = seconds
        # What was signed before the start may have been seen before the start.
        self._started = int(seconds())
        self._nonces = Nonces(2 * WINDOW_SECONDS, clock=ticks)
        self.sessions = Sessions(keys.session_secret(), clock=seconds)
        self._failures = Limiter(_FAILURES, _FAILURE_WINDOW, clock=ticks)

    def close(self) -> None:
        """Close the audit log, and settle what other nodes do not know of yet."""
        if isinstance(self._limiter, SharedLimiter):
            self._limiter.close()
        self._audit.close()

    @property
    def window(self) -> float:
        """Seconds that a limit is for."""
        return self._limiter.window if self._limiter is not None else 0.0

    # ---- stage 1: who ---------------------------------------------------------------------------

    def identify(self, request: Request) -> Known | Pending:
        """Who asks, by the headers alone: known already, or pending until the body has come.

        Raises Refusal with 401, or 429 where an address failed too often. That stops no one who has
        a key: behind one address there may be many.
        """
        try:
            found = self._identify(request)
        except ConfigError:
            self._count("authentication", Cause.KEYS_UNREADABLE)
            self._audit.write("keys_unreadable", address=request.address)
            raise Refusal(
                503, "the service cannot read its keys", Cause.KEYS_UNREADABLE, retry_after=10
            ) from None
        if isinstance(found, Cause):
            raise self._unknown(request, found)
        return found

    def _identify(self, request: Request) -> Known | Pending | Cause:
        signed = bool(request.signature_inputs or request.signatures)
        given = [*request.api_keys, *request.authorizations]
        if len(given) + signed > 1:
            return Cause.TWO_CREDENTIALS
        if signed:
            return self._claimed(request)
        if not given and request.ticket is not None:
            return self._ticketed(request, request.ticket)
        if not given:
            return self._in_session(request) if request.session else Cause.NO_CREDENTIALS
        known = self._keys.by_api_key(_bare_key(given[0]))
        if known is None:
            return Cause.BAD_API_KEY
        return known if _within(known.networks, request.address) else Cause.NETWORK

    def _ticketed(self, request: Request, ticket: str) -> Known | Cause:
        key_id = self.tickets.take(ticket)
        known = None if key_id is None else self._keys.by_id(key_id)
        if known is None:
            return Cause.BAD_TICKET
        return known if _within(known.networks, request.address) else Cause.NETWORK

    def _in_session(self, request: Request) -> Known | Cause:
        key_id = self.sessions.key_of(request.session)
        known = None if key_id is None else self._keys.by_id(key_id)
        if known is None:
            return Cause.NO_CREDENTIALS  # it has ended, which is no failure
        if request.method not in _SAFE_METHODS and not hmac.compare_digest(
            request.forgery_token.encode("latin-1", "replace"),
            self.sessions.forgery_token(request.session).encode(),
        ):
            return Cause.FORGED
        return known if _within(known.networks, request.address) else Cause.NETWORK

    def _claimed(self, request: Request) -> Known | Pending | Cause:
        try:
            claim = Claim.read(request.signature_inputs, request.signatures)
        except BadSignature:
            return Cause.MALFORMED
        now = self._seconds()
        if not claim.timely(now) or claim.created < self._started:
            return Cause.STALE
        bodiless = not claim.with_body
        if bodiless and (request.has_body or request.method in _METHODS_WITH_BODY):
            return Cause.MALFORMED
        if not bodiless and not len(request.content_types) == len(request.content_digests) == 1:
            return Cause.MALFORMED
        digest = None if bodiless else request.content_digests[0]
        parts = Parts(
            method=request.method,
            authority=request.authority,
            path=request.path,
            query=request.query,
            content_type=None if bodiless else request.content_types[0],
            content_digest=digest,
        )
        known = self._keys.by_id(claim.key_id)
        # An unknown key costs what a known one costs.
        proved = claim.proves(parts, known.verifying_key if known is not None else _NOBODY)
        if known is None:
            return Cause.UNKNOWN_KEY
        if not proved:
            return Cause.WRONG_SIGNATURE
        if not _within(known.networks, request.address):
            return Cause.NETWORK
        if digest is not None:
            return Pending(known, claim, digest)
        return known if self._nonces.use(claim.key_id, claim.nonce) else Cause.REPLAYED

    def believe(self, request: Request, pending: Pending, body: bytes) -> Known:
        """The same once the body is there. Raises Refusal."""
        if content_digest(body) != pending.digest:
            raise self._unknown(request, Cause.WRONG_DIGEST)
        if not self._nonces.use(pending.claim.key_id, pending.claim.nonce):
            raise self._unknown(request, Cause.REPLAYED)
        return pending.known

    def _unknown(self, request: Request, cause: Cause) -> Refusal:
        if cause is not Cause.NO_CREDENTIALS:
            verdict = self._failures.take(request.address)
            if not verdict.allowed:
                self._count("authentication", Cause.TOO_MANY_FAILURES)
                return Refusal(
                    429,
                    "too many failed attempts from this address; try again later",
                    Cause.TOO_MANY_FAILURES,
                    retry_after=math.ceil(verdict.retry_after),
                )
            self._audit.write("refused", cause=cause, address=request.address, path=request.path)
        self._count("authentication", cause)
        return Refusal(
            401,
            "this needs an API key (X-API-Key, or Authorization: Bearer) or a signature that is "
            "valid now; make a key with: blatam-kv keys create --tenant NAME",
            cause,
        )

    def knows(self, caller: Caller) -> bool:
        """Whether the key of a caller who was let in still works: a stream may outlive it."""
        if caller.key_id == ITSELF.key_id:
            return True
        try:
            return self._keys.by_id(caller.key_id) is not None
        except ConfigError:
            return True  # nobody can tell now; who asks anew is refused

    # ---- stage 2: how often ---------------------------------------------------------------------

    def limit(self, known: Known, policy: str) -> Verdict | None:
        """Count a request; None without limits. Raises Refusal with 429 if it is one too many."""
        if self._limiter is None:
            return None
        verdict = self._limiter.take(f"{known.key.tenant}/{policy}", limit=known.key.rate)
        if verdict.allowed:
            return verdict
        self._count("rate_limit", Cause.RATE)
        raise Refusal(
            429,
            f"more than {verdict.limit:,} requests in {self._limiter.window:g} seconds; try again "
            "later",
            Cause.RATE,
            retry_after=math.ceil(verdict.retry_after),
            verdict=verdict,
        )

    # ---- stage 4: whether -----------------------------------------------------------------------

    def allow(self, caller: Caller, scope: Scope, *, path: str) -> None:
        """Raises Refusal with 403 if the key may not do this."""
        if caller.may(scope):
            return
        self._count("access", Cause.SCOPE)
        self._audit.write(
            "refused", cause=Cause.SCOPE, tenant=caller.tenant, key_id=caller.key_id, path=path
        )
        raise Refusal(
            403, f"this key may not do that; it takes a role with {scope.value}", Cause.SCOPE
        )

    def note(self, caller: Caller, *, method: str, path: str) -> None:
        """Write down what is asked for with an administrator's rights."""
        self._audit.write(
            "administered",
            tenant=caller.tenant,
            key_id=caller.key_id,
            method=method,
            path=path,
        )


def _bare_key(text: str) -> str:
    """An API key with or without ``Bearer`` before it."""
    scheme, space, rest = text.partition(" ")
    return rest.strip() if space and scheme.lower() == "bearer" else text


def _within(networks: Sequence[Network], address: str) -> bool:
    if not networks:
        return True
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)
