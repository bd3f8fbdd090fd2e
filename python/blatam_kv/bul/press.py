"""Where written documents become files, each tenant's under its own letterhead."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from blatam_kv.bul.storage import StorageUnavailable
from blatam_kv.bul.tasks import Written
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.rendering import SHOW_LETTERHEADS, Rendered, render
from blatam_kv.documents.styles import USUAL, Look
from blatam_kv.metrics import ServiceMetrics

if TYPE_CHECKING:
    from blatam_kv.bul.storage.archive import Archive


class Press:
    """Safe from any thread. Rendering takes milliseconds to seconds, and whatever asks for a
    letterhead waits for the database and raises StorageUnavailable: none of it belongs on a loop.
    """

    def __init__(self, archive: Callable[[], Archive], metrics: ServiceMetrics) -> None:
        self._archive = archive
        self._metrics = metrics

    def render(self, written: Written, format: str, *, tenant: str, look: Look = USUAL) -> Rendered:
        """A tenant's document in a format. Raises InvalidRequest for one beyond its limits."""
        shown = look.letterhead and format in SHOW_LETTERHEADS
        head = self.letterhead(tenant=tenant) if shown else None
        try:
            with self._metrics.stage("document"):
                rendered = render(written.document(look, head), format)
        except Exception:
            self._metrics.document(format, ok=False)
            raise
        self._metrics.document(format, ok=True)
        return rendered

    def letterhead(self, *, tenant: str) -> Letterhead | None:
        """A tenant's letterhead."""
        try:
            return self._archive().letterheads.find(tenant)
        except StorageUnavailable:
            self._metrics.storage_failed("read")
            raise

    def keep_letterhead(self, letterhead: Letterhead, *, tenant: str) -> None:
        """Set a tenant's letterhead; what is rendered from now on has it."""
        self._archive().letterheads.keep(tenant, letterhead)

    def drop_letterhead(self, *, tenant: str) -> bool:
        """Forget a tenant's letterhead; False if there was none."""
        return self._archive().letterheads.drop(tenant)
