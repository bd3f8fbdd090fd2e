"""Text as search sees it: its words, each once, without case and accents.

``Política`` is found as ``politica``, as a Spanish user types it. One column of such words, matched
by LIKE, does the same in SQLite and PostgreSQL; their own full-text engines differ in what a word
is, and PostgreSQL's needs an extension for accents.
"""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")
# A longer one is no word; a database has limits for what it compares.
_MAX_CHARS = 64


def words(text: str) -> list[str]:
    """The words of a text in the order of their first appearance."""
    # Folded between two decompositions: each may make work for the other (𝓐, ΐ).
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return list(dict.fromkeys(word[:_MAX_CHARS] for word in _WORD.findall(plain)))


def searchable(*texts: str) -> str:
    """The column: each word once, a space before each, so that `` plan`` finds beginnings."""
    return "".join(f" {word}" for word in words("\n".join(texts)))
