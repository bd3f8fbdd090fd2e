"""What a document's file is called."""

from __future__ import annotations

import re
import unicodedata

_RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$")


def filename(title: str, extension: str) -> str:
    """A name that is safe to save under on any system: no path, no device, at most 200 bytes."""
    text = unicodedata.normalize("NFKC", title)
    text = "".join(char for char in text if unicodedata.category(char)[0] != "C")
    text = re.sub(r'[/\\:*?"<>|]+', " ", text)
    text = " ".join(text.split()).strip(" .")
    room = 200 - len(extension) - 1
    text = text.encode()[:room].decode(errors="ignore").strip(" .")
    if not text or _RESERVED.match(text):
        text = "document"
    return f"{text}.{extension}"
