"""How wide the columns of a table are: as wide as what stands in them, within reason."""

from __future__ import annotations

from blatam_kv.documents.form import Table, plain

# Characters: a column is never drawn for fewer, and more does not make it wider.
_LEAST, _MOST = 5, 48


def weights(table: Table) -> list[float]:
    """A share for each column, by its longest cells and its longest word."""
    found = []
    for column in zip(table.head, *table.rows, strict=True):
        texts = [plain(cell) for cell in column]
        longest = max(map(len, texts), default=0)
        word = max((len(word) for text in texts for word in text.split()), default=0)
        # A long text may be broken, a word may not.
        wanted = max(min(longest, _MOST) ** 0.75, min(word, _MOST))
        found.append(round(max(wanted, _LEAST), 2))
    return found
