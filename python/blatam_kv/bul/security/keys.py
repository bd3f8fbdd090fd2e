"""Keys of tenants: made, renewed, revoked, and looked up by the running service.

A key has two forms. The API key is a text that is sent as it is; only its digest is kept. The
signing key never travels; it is derived from the master secret and kept nowhere. The file
``keys.json`` in the data directory is replaced whole, under a lock; a running service sees a change
within a second.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

from blatam_kv.bul.caller import ITSELF, Caller, Scope
from blatam_kv.bul.security.master import Master
from blatam_kv.bul.security.private import replace as replace_file
from blatam_kv.config import did_you_mean
from blatam_kv.errors import ConfigError, InvalidRequest
from blatam_kv.signature import Keyed, keyed

FILE = "keys.json"
_LOCK = "keys.lock"
_FORMAT = 1
_REFRESH_SECONDS = 1.0
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_API_KEY = re.compile(r"bkv_(?P<key_id>[a-z0-9]{12})_(?P<text>[A-Za-z0-9_-]{43})")

ROLES: Mapping[str, frozenset[Scope]] = {
    "writer": frozenset({Scope.WRITE, Scope.READ, Scope.CHAT, Scope.METRICS}),
    "reader": frozenset({Scope.READ}),
    "monitor": frozenset({Scope.METRICS}),
    "admin": frozenset(Scope),
}
DEFAULT_ROLE = "writer"

State = Literal["active", "verify-only", "revoked"]
Network = IPv4Network | IPv6Network

# The key of whoever can read the data directory: commands on this machine sign with it.
LOCAL_KEY_ID = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as it is kept. Times are Unix seconds; not_after of None is for ever.

    verify-only: an old key that a new one replaces; it works until not_after. networks: from where
    it may be used, anywhere if empty. rate: requests a window, None for the service's own limit.
    """

    key_id: str
    tenant: str
    role: str
    state: State
    created: int
    not_after: int | None
    networks: tuple[str, ...]
    rate: int | None
    api_key_digest: str

    def works(self, now: float) -> bool:
        """Whether it is good for anything at this time."""
        return self.state != "revoked" and (self.not_after is None or now < self.not_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key and its two secrets, which are shown once."""

    key: Key
    api_key: str
    signing_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A key as a guard needs it: worked out once, not for every request."""

    key: Key
    caller: Caller
    signing_key: bytes
    verifying_key: Keyed
    networks: tuple[Network, ...]


class KeyRing:
    """All keys under a data directory. Safe from any thread and beside other processes."""

    def __init__(
        self,
        data_dir: Path,
        master: Master,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = data_dir / FILE
        self._master = master
        self._clock = clock
        self._ticks = ticks
        self._pepper = keyed(master.derive("blatam-kv/api-key/v1"))
        # One at a time, or what was read earlier could be put in the place of what was read later.
        self._refreshing = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._looked = -_REFRESH_SECONDS
        self._known: Mapping[str, Known] = {}
        self.refresh()

    # ---- lookups --------------------------------------------------------------------------------

    def by_id(self, key_id: str) -> Known | None:
        """The key of a signature, if it works now."""
        known = self._find(key_id)
        return known if known is not None and known.key.works(self._clock()) else None

    def by_api_key(self, text: str) -> Known | None:
        """The key whose API key this is, if it works now."""
        found = _API_KEY.fullmatch(text)
        known = self._find(found["key_id"]) if found else None
        # One digest, whether or not there is such a key.
        digest = self._digest(text)
        if known is None or not hmac.compare_digest(digest, known.key.api_key_digest):
            return None
        return known if known.key.works(self._clock()) else None

    def keyed(self, purpose: str) -> Keyed:
        """A key of the installation's own for a purpose, ready to make MACs with."""
        return keyed(self._master.derive(purpose))

    def salt_of(self, tenant: str) -> bytes:
        """What keys the digests of a tenant, for work that outlived its request."""
        return self._master.tenant_salt(tenant)

    def mac_key(self, purpose: str) -> bytes:
        """What authenticates records that nodes of one installation share."""
        return self._master.derive("blatam-kv/mac-key/v1", purpose)

    def signer(self, tenant: str, key_id: str) -> tuple[str, bytes] | None:
        """With what to sign what is sent to a tenant: the key that asked, else its newest that
        works; None if it has none any more."""
        now = self._clock()
        mine = [
            known
            for known in self._current().values()
            if known.key.tenant == tenant and known.key.works(now)
        ]
        mine.sort(key=lambda known: (known.key.key_id == key_id, known.key.created))
        return (mine[-1].key.key_id, mine[-1].signing_key) if mine else None

    def all(self) -> list[Key]:
        """Every key ever made that is still on file, the oldest first."""
        keys = [known.key for known in self._current().values() if known.key.key_id != LOCAL_KEY_ID]
        return sorted(keys, key=lambda key: (key.created, key.key_id))

    def refresh(self) -> None:
        """Read the file again if it changed. Raises ConfigError if it cannot be understood."""
        with self._refreshing:
            self._looked = self._ticks()
            try:
                status = self._path.stat()
                seen: tuple[int, ...] = (status.st_mtime_ns, status.st_ino, status.st_size)
            except FileNotFoundError:
                seen = (0,)
            if seen != self._seen:
                keys = self._read()
                self._known = {key.key_id: self._know(key) for key in (self._local(), *keys)}
                self._seen = seen

    def _find(self, key_id: str) -> Known | None:
        known = self._current().get(key_id)
        if known is None:
            self.refresh()  # it may have been made this moment
            known = self._known.get(key_id)
        return known

    def _current(self) -> Mapping[str, Known]:
        if self._ticks() - self._looked >= _REFRESH_SECONDS:
            self.refresh()
        return self._known

    # ---- changes --------------------------------------------------------------------------------

    def create(
        self,
        tenant: str,
        *,
        role: str = DEFAULT_ROLE,
        networks: tuple[str, ...] = (),
        rate: int | None = None,
        days: float | None = None,
    ) -> NewKey:
        """A new key of a tenant, who is new with its first one. Raises InvalidRequest."""
        if not _TENANT.fullmatch(tenant):
            raise InvalidRequest(
                f"a tenant is named by 1 to 63 of a-z 0-9 . _ -, not {tenant[:80]!r}",
                field="tenant",
            )
        if tenant == ITSELF.tenant:
            raise InvalidRequest(f"{tenant!r} is this machine's own tenant", field="tenant")
        if role not in ROLES:
            hint = did_you_mean(role, ROLES) or f"; there are {', '.join(ROLES)}"
            raise InvalidRequest(f"{role[:80]!r} is not a role{hint}", field="role")
        if rate is not None and rate < 1:
            raise InvalidRequest("a rate is at least one request a window", field="rate")
        if days is not None and not 0 < days <= 36_500:
            raise InvalidRequest(
                "a key lives for more than 0 and at most 36,500 days", field="days"
            )
        now = int(self._clock())
        return self._issue(
            tenant=tenant,
            role=role,
            networks=tuple(str(_network(text)) for text in networks),
            rate=rate,
            not_after=None if days is None else now + round(days * 86_400),
        )

    def rotate(self, key_id: str, *, overlap_seconds: float = 86_400) -> NewKey:
        """A successor for a key, which goes on working beside it for a while."""
        if overlap_seconds < 0:
            raise InvalidRequest("the overlap is at least 0 seconds", field="overlap")
        old = self._one(key_id)
        if not old.works(self._clock()):
            raise InvalidRequest(
                f"key {key_id} does not work any more; create another", field="key"
            )
        end = int(self._clock() + overlap_seconds)
        retiring = replace(
            old,
            state="verify-only",
            not_after=end if old.not_after is None else min(end, old.not_after),
        )
        return self._issue(
            tenant=old.tenant,
            role=old.role,
            networks=old.networks,
            rate=old.rate,
            not_after=old.not_after,
            beside=retiring,
        )

    def revoke(self, key_id: str) -> Key:
        """End a key now. It stays on file, so that it is seen to be revoked."""
        gone = replace(self._one(key_id), state="revoked")
        with self._changing() as keys:
            keys[key_id] = gone
        return gone

    def _one(self, key_id: str) -> Key:
        self.refresh()
        known = self._known.get(key_id)
        if known is None or key_id == LOCAL_KEY_ID:
            hint = did_you_mean(key_id[:80], self._known)
            raise InvalidRequest(f"there is no key {key_id[:80]!r}{hint}", field="key")
        return known.key

    def _issue(self, *, beside: Key | None = None, **what: Any) -> NewKey:
        key_id = secrets.token_hex(6)
        api_key = f"bkv_{key_id}_{secrets.token_urlsafe(32)}"
        key = Key(
            key_id=key_id,
            state="active",
            created=int(self._clock()),
            api_key_digest=self._digest(api_key),
            **what,
        )
        with self._changing() as keys:
            if beside is not None:
                keys[beside.key_id] = beside
            keys[key_id] = key
        return NewKey(key=key, api_key=api_key, signing_key=self._signing_key(key_id))

    # ---- what is derived ------------------------------------------------------------------------

    def local_signing_key(self) -> bytes:
        """What commands on this machine sign with."""
        return self._signing_key(LOCAL_KEY_ID)

    def session_secret(self) -> bytes:
        """What sessions of the page are sealed with."""
        return self._master.derive("blatam-kv/session/v1")

    def _signing_key(self, key_id: str) -> bytes:
        return self._master.derive("blatam-kv/signing-key/v1", key_id)

    def _digest(self, api_key: str) -> str:
        mac = self._pepper.copy()
        mac.update(api_key.encode("utf-8", "replace"))
        return mac.hexdigest()

    def _local(self) -> Key:
        return Key(
            key_id=LOCAL_KEY_ID,
            tenant=ITSELF.tenant,
            role="admin",
            state="active",
            created=0,
            not_after=None,
            networks=("127.0.0.0/8", "::1/128"),
            rate=None,
            api_key_digest="",
        )

    def _know(self, key: Key) -> Known:
        signing_key = self._signing_key(key.key_id)
        return Known(
            key=key,
            caller=Caller(
                tenant=key.tenant,
                key_id=key.key_id,
                scopes=ROLES[key.role],
                salt=self._master.tenant_salt(key.tenant),
            ),
            signing_key=signing_key,
            verifying_key=keyed(signing_key),
            networks=tuple(ip_network(text) for text in key.networks),
        )

    # ---- the file -------------------------------------------------------------------------------

    def _read(self) -> list[Key]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            if document["format"] != _FORMAT:
                raise ConfigError(
                    f"{self._path} has format {document['format']!r}, this version reads {_FORMAT}"
                )
            keys = [
                Key(**(fields | {"networks": tuple(fields["networks"])}))
                for fields in document["keys"]
            ]
            for key in keys:
                self._know(key)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigError(f"cannot read the keys in {self._path} ({reason})") from error
        return keys

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """The keys by id, as they are; what the body makes of them is written, whole."""
        folder = self._path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = {key.key_id: key for key in self._read()}
                yield keys
                document = {"format": _FORMAT, "keys": [asdict(key) for key in keys.values()]}
                replace_file(self._path, json.dumps(document, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot change {self._path}: {error.strerror or error}") from error
        self.refresh()


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        raise InvalidRequest(
            f"{text[:80]!r} is not a network such as 10.0.0.0/8", field="allow"
        ) from None
