"""How large a document may be: what bounds the time and memory that one rendering takes.

Measured on one core: no document within these limits takes more than 2.5 s of CPU as PDF (one word of
a million letters), or 0.4 s as Word.
"""

from __future__ import annotations

from blatam_kv.documents.document import Document
from blatam_kv.documents.form import Items, Table, walk
from blatam_kv.errors import InvalidRequest

MAX_CHARACTERS = 1_000_000
# Of formats that are laid out: blocks, items and cells, each of which is placed on a page.
MAX_PIECES = 10_000
# Word's own limit; no page has room for more.
MAX_COLUMNS = 63
_LAID_OUT = ("docx", "pdf")


def check(document: Document, format: str) -> None:
    """Raises InvalidRequest, naming the limit, for a document that a format does not take."""
    characters = len(document.markdown)
    if characters > MAX_CHARACTERS:
        raise InvalidRequest(
            f"the document has {characters:,} characters; at most {MAX_CHARACTERS:,} are rendered, "
            "so split it",
            field="content",
        )
    if format not in _LAID_OUT:
        return
    pieces = 0
    for block in walk(document.body):
        pieces += 1
        if isinstance(block, Items):
            pieces += len(block.items)
        elif isinstance(block, Table):
            pieces += len(block.align) * (1 + len(block.rows))
            if len(block.align) > MAX_COLUMNS:
                raise InvalidRequest(
                    f"a table has {len(block.align)} columns; {format} has room for {MAX_COLUMNS}",
                    field="content",
                )
        if pieces > MAX_PIECES:
            raise InvalidRequest(
                f"the document has more than {MAX_PIECES:,} paragraphs, items and cells; ask for "
                f"html or split it: {format} is laid out piece by piece",
                field="content",
            )
