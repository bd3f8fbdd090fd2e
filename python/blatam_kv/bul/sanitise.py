"""Text from outside, made safe to keep and to show, and otherwise left as it is.

Nothing is deleted for what it says: a query about ``subprocess``, an SQL statement or an HTML tag is
honest text, and is escaped where it is shown, not here. What goes is what nobody can see and what
changes how its neighbours are seen.
"""

from __future__ import annotations

import re
import unicodedata

# C0 and C1 but for tab and line feed: nothing a document can show.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
# They turn the direction of what follows: a name or a file extension can be made to read otherwise.
_BIDI = r"\u202a-\u202e\u2066-\u2069"
# Invisible letters. Only flags of regions (England, Texas) are written with them.
_TAGS = r"\U000e0000-\U000e007f"
_FLAG = "\U0001f3f4"

_UNSEEN = re.compile(f"[{_CONTROLS}{_BIDI}]|({_FLAG}[{_TAGS}]+)|[{_TAGS}]+")


def clean(text: str) -> str:
    """What of the text can be seen, trimmed."""
    return visible(text).strip()


def visible(text: str) -> str:
    """The text in NFC, with Unix line ends, without what cannot be seen.

    Joiners (ZWJ, ZWNJ) stay, being part of Persian, of Indic scripts and of emoji; so do marks of
    direction, which turn nothing.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # In this order: what goes may have stood between a letter and its accent.
    return unicodedata.normalize("NFC", _UNSEEN.sub(_flag_only, text))


def _flag_only(found: re.Match[str]) -> str:
    return found[1] or ""
