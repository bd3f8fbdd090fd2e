"""Where written documents become files, each tenant's under its own letterhead."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.tasks import Written
from blatam_kv.cache import Cache
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.rendering import SHOW_LETTERHEADS, Rendered, render
from blatam_kv.documents.styles import USUAL, Look
from blatam_kv.metrics import ServiceMetrics
from blatam_kv.tracing import span

if TYPE_CHECKING:
    from blatam_kv.bul.storage.archive import Archive


# How soon a node sees the letterhead that another one was given.
FRESH_SECONDS = 20.0
# A logo is half a megabyte at most.
MOST_KNOWN = 200


class Press:
    """Safe from any thread. Rendering takes milliseconds to seconds, and whatever asks for a
    letterhead may wait for the database and raise StorageUnavailable: none of it belongs on a loop.

    A letterhead is asked for anew after FRESH_SECONDS, when another node may have changed it; while
    the database is away, the one that was known stands.
    """

    def __init__(
        self,
        archive: Callable[[], Archive],
        metrics: ServiceMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._archive = archive
        self._metrics = metrics
        self._clock = clock
        self._known: Cache[str, tuple[float, Letterhead | None]] = Cache(capacity=MOST_KNOWN)

    def render(self, written: Written, format: str, *, tenant: str, look: Look = USUAL) -> Rendered:
        """A tenant's document in a format. Raises InvalidRequest for one beyond its limits."""
        shown = look.letterhead and format in SHOW_LETTERHEADS
        head = self.letterhead(tenant=tenant) if shown else None
        with self._metrics.document(format), span("render", {"blatam_kv.format": format}):
            return render(written.document(look, head), format)

    def letterhead(self, *, tenant: str) -> Letterhead | None:
        """A tenant's letterhead."""
        known, now = self._known.get(tenant), self._clock()
        if known is not None and now - known[0] < FRESH_SECONDS:
            return known[1]
        try:
            found = self._archive().letterheads.find(tenant)
        except StorageUnavailable:
            self._metrics.storage_failed("read")
            if known is None:
                raise
            return known[1]
        self._known.put(tenant, (now, found))
        return found

    def letterhead_of(self, tenant: str) -> Letterhead | None:
        """The same, for who has a tenant's name and nothing else."""
        return self.letterhead(tenant=tenant)

    def keep_letterhead(self, letterhead: Letterhead, *, tenant: str) -> None:
        """Set a tenant's letterhead; what is rendered from now on has it."""
        self._archive().letterheads.keep(tenant, letterhead)
        self._known.put(tenant, (self._clock(), letterhead))

    def drop_letterhead(self, *, tenant: str) -> bool:
        """Forget a tenant's letterhead; False if there was none."""
        dropped = self._archive().letterheads.drop(tenant)
        self._known.put(tenant, (self._clock(), None))
        return dropped
