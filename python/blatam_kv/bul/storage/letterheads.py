"""Letterheads, one for each tenant that has any."""

from __future__ import annotations

import json
import time

from sqlalchemy import delete, select

from blatam_kv.bul.storage.database import Database
from blatam_kv.bul.storage.schema import letterheads
from blatam_kv.documents.letterhead import Letterhead, Logo


class Letterheads:
    """The rows. Each call waits for the database and fails as ``Database`` says."""

    def __init__(self, database: Database) -> None:
        self._database = database
        upsert = database.insert(letterheads)
        names = [column.name for column in letterheads.columns if column.name != "tenant"]
        self._keep = upsert.on_conflict_do_update(
            index_elements=[letterheads.c.tenant],
            set_={name: upsert.excluded[name] for name in names},
        )

    def find(self, tenant: str) -> Letterhead | None:
        """A tenant's letterhead."""
        found = self._database.read(select(letterheads).where(letterheads.c.tenant == tenant))
        if not found:
            return None
        row = found[0]
        logo = None
        if row.logo is not None:
            logo = Logo(row.logo, row.logo_format, row.logo_width, row.logo_height)
        return Letterhead(row.company, tuple(json.loads(row.lines)), logo)

    def keep(self, tenant: str, letterhead: Letterhead) -> None:
        """Put it in the place of the one there was."""
        logo = letterhead.logo
        row = {
            "tenant": tenant,
            "company": letterhead.company,
            "lines": json.dumps(letterhead.lines, ensure_ascii=False),
            "logo": None if logo is None else logo.content,
            "logo_format": None if logo is None else logo.format,
            "logo_width": None if logo is None else logo.width,
            "logo_height": None if logo is None else logo.height,
            "changed": time.time(),
        }
        with self._database.transaction() as connection:
            connection.execute(self._keep, row)

    def drop(self, tenant: str) -> bool:
        """Forget it; False if there was none."""
        with self._database.transaction() as connection:
            mine = delete(letterheads).where(letterheads.c.tenant == tenant)
            return connection.execute(mine).rowcount > 0
