"""``Drops``: what the nodes were told to forget, in order, in the Redis they share.

A notice reaches who listens at the moment, and nobody else. So what is to be forgotten also stands
in a stream, and every node remembers how far it has read: who was cut off, or was not running, reads
on from there before it believes what it has. Where the stream no longer holds the place (a Redis
that lost its memory, or a gap longer than the stream) nobody can say what was missed, and the node
forgets every answer: one that was dropped never comes back.

What could not be told, because Redis was away, is told as soon as it is there again.

A Redis that comes back older than it was (a snapshot of some minutes ago, a replica that was behind) has
answers that were dropped since, and its stream says nothing of it. So every node also remembers what it
told and followed; who finds that the newest of that is missing, while older entries are there, tells
Redis again what it has forgotten, and everything where it does not know all of that.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from blatam_kv.errors import TierUnavailable
from blatam_kv.tiers.redis import RedisTier

log = logging.getLogger("blatam_kv.bul")

# Drops that the stream remembers, roughly, and those that may wait to be told; more than that is
# told as one: everything.
MOST = 10_000
_PORTION = 1000
_EVERYTHING = b""
_PLACE, _NOWHERE = re.compile(rb"\d+-\d+"), b"0-0"


class Drops:
    """The drops of one node, and those of the others that it has yet to follow. Safe from any thread.

    forget: called with the digest of each answer that another node dropped. clear: called when one
    dropped everything. doubt: called when what was dropped cannot be known. told: called when there is
    something new for the others to follow. place: a file that holds how
    far this node has read, for answers that outlive the process; None for none.
    """

    def __init__(
        self,
        tier: RedisTier,
        *,
        forget: Callable[[bytes], object],
        clear: Callable[[], object],
        doubt: Callable[[], object],
        told: Callable[[], object],
        place: Path | None = None,
    ) -> None:
        self._tier = tier
        self._forget, self._clear, self._doubt, self._told = forget, clear, doubt, told
        self._place = place
        self._name = f"{tier.namespace}:drops".encode()
        self._node = secrets.token_bytes(8)
        self._lock = threading.Lock()  # guards _pending, what is known, and count
        self._pending: dict[bytes, object] = {}  # with who wanted it last
        # Digests by their places in the stream, the oldest first.
        self._known: dict[bytes, bytes] = {}
        self._knows_after: bytes | None = None  # the place after which it has all there was
        self._reading = threading.Lock()  # one thread follows at a time
        self._read = self._recalled()
        self._newest_known = self._read or _NOWHERE
        self._behind = True
        self.count = 0
        """How often something was dropped, here or elsewhere; raised before it is forgotten here."""

    def tell(self, digest: bytes | None) -> bool:
        """Have every node forget an answer, None: all of them; whether Redis knows of it now. If
        not, ``retry`` tells it."""
        with self._lock:
            self.count += 1
            if digest is None or _EVERYTHING in self._pending or len(self._pending) >= MOST:
                self._pending.clear()
                digest = _EVERYTHING
            self._pending[digest] = object()
        return self.retry()

    def retry(self) -> bool:
        """Tell what could not be told; whether nothing is left."""
        while True:
            with self._lock:
                digest, wanted = next(iter(self._pending.items()), (None, None))
            if digest is None:
                return True
            fields = {b"node": self._node, b"digest": digest}
            try:
                told = self._tier.ask("xadd", self._name, fields, maxlen=MOST, approximate=True)
                self._learn(told, digest)
                if digest == _EVERYTHING:
                    self._tier.clear()
                else:
                    self._tier.delete_many([digest])
            except TierUnavailable:
                return False
            with self._lock:
                if self._pending.get(digest) is wanted:  # else it is to be dropped once more
                    self._pending.pop(digest, None)
            self._told()

    def waits(self, digest: bytes) -> bool:
        """Whether an answer is to be forgotten, and Redis may still have it."""
        pending = self._pending
        return bool(pending) and (digest in pending or _EVERYTHING in pending)

    def follow(self) -> None:
        """Forget what the others dropped since this was last called, by whichever process of this
        node. Where Redis is away nothing happens, and ``catch_up`` does it."""
        with self._reading, suppress(TierUnavailable):
            self._behind = True
            if self._read is None:
                self._remember(self._newest())
            if self._knows_after is None:
                self._knows_after = self._read
            self._mend()
            while self._portion() == _PORTION:
                pass
            self._behind = False

    def catch_up(self) -> None:
        """Do what could not be done; call it now and then."""
        if self._pending:
            self.retry()
        if self._behind:
            self.follow()

    # ---- inside ---------------------------------------------------------------------------------

    def _newest(self) -> bytes:
        """The place of the newest entry; if there is none, of one that begins the stream."""
        found = self._tier.ask("xrevrange", self._name, count=1)
        place: bytes = (
            found[0][0]
            if found
            else self._tier.ask("xadd", self._name, {b"node": self._node, b"begin": b""})
        )
        return place

    def _portion(self) -> int:
        """Follow some more; returns how many there were, the one read last among them."""
        found = self._tier.ask("xrange", self._name, min=self._read, count=_PORTION)
        if not found or found[0][0] != self._read:
            log.warning("what other nodes dropped cannot be known; every answer here is forgotten")
            newest = self._newest()
            self._raise()
            self._doubt()
            self._remember(newest)
            self._knows_after = newest
            return 0
        for place, fields in found[1:]:
            digest = fields.get(b"digest")
            if digest is None or fields.get(b"node") == self._node:
                continue
            self._learn(place, digest)
            self._raise()
            if digest == _EVERYTHING:
                self._clear()
            else:
                self._forget(digest)
        if len(found) > 1:
            self._remember(found[-1][0])
        return len(found)

    def _mend(self) -> None:
        """Tell Redis again what it forgot, if it came back older than it was."""
        newest = self._newest_known
        found = self._tier.ask("xrevrange", self._name, max=newest, count=1)
        if not found or found[0][0] == newest:  # without any it began anew, or has had many since
            return
        last = _order(found[0][0])
        # What comes after is of the time since it came back: others may have told it already.
        since = dict(self._tier.ask("xrange", self._name, min=found[0][0], count=2 * MOST))
        with self._lock:
            lost = {at for at in self._known if _order(at) > last and at not in since}
            digests = {self._known.pop(at) for at in lost}
            whole = self._knows_after is not None and _order(self._knows_after) <= last
            self._newest_known = max(since, key=_order)
        if not whole or _EVERYTHING in digests:
            digests = {_EVERYTHING}
        digests -= {fields.get(b"digest") for fields in since.values()}
        log.warning("Redis came back older than it was; %d drops are told again", len(digests))
        for digest in digests:
            self.tell(None if digest == _EVERYTHING else digest)
            if digest == _EVERYTHING:  # a moment ago it may have come from there
                self._clear()
            else:
                self._forget(digest)

    def _learn(self, place: bytes, digest: bytes) -> None:
        """Remember a drop, and that the oldest one was forgotten."""
        with self._lock:
            self._known[place] = digest
            self._newest_known = max(self._newest_known, place, key=_order)
            if len(self._known) > MOST:
                oldest = next(iter(self._known))
                del self._known[oldest]
                if self._knows_after is None or _order(oldest) > _order(self._knows_after):
                    self._knows_after = oldest

    def _raise(self) -> None:
        with self._lock:
            self.count += 1

    def _recalled(self) -> bytes | None:
        if self._place is None:
            return None
        try:
            read = self._place.read_bytes()
        except OSError:
            return None
        return read if _PLACE.fullmatch(read) else _NOWHERE

    def _remember(self, read: bytes) -> None:
        self._read = read
        with self._lock:
            self._newest_known = max(self._newest_known, read, key=_order)
        if self._place is None:
            return
        try:
            new = self._place.with_suffix(".new")
            new.write_bytes(read)
            new.replace(self._place)
        except OSError as error:  # a restart will read more again, or forget more, than it must
            log.warning("how far drops were read cannot be written: %s", error)


def _order(place: bytes) -> tuple[int, int]:
    """Places of the stream in their order."""
    at, number = place.split(b"-")
    return int(at), int(number)
