"""A finished document: the model's Markdown, its structure, and its bytes in each format.

Rendering is a pure function of the document, so the same document has the same bytes for ever. The
Markdown is untrusted: whatever it holds comes out as text, never as markup or script.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import asdict, dataclass
from itertools import pairwise

from blatam_kv.bul.markdown import parse, plain_text
from blatam_kv.errors import InvalidRequest

# A model that has lost its way may never end a heading.
_TITLE_CHARS = 120


@dataclass(frozen=True, slots=True)
class Section:
    """A heading (level 1 to 6) and the Markdown below it; level 0 is text before any heading."""

    heading: str
    level: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document before it is rendered; ``markdown`` is what the model wrote."""

    title: str
    markdown: str
    language: str
    document_type: str
    business_area: str

    @property
    def sections(self) -> tuple[Section, ...]:
        """The Markdown cut at its top-level headings, in order."""
        lines = self.markdown.split("\n")
        # Where each heading begins, where it ends, its level and its text.
        marks: list[tuple[int, int, int, str]] = []
        tokens = parse(self.markdown)
        for token, inline in pairwise(tokens):
            if token.type == "heading_open" and token.level == 0 and token.map:
                first, end = token.map
                marks.append((first, end, int(token.tag[1:]), plain_text(inline)))
        starts = [mark[0] for mark in marks] + [len(lines)]
        preamble = "\n".join(lines[: starts[0]]).strip()
        found = [Section("", 0, preamble)] if preamble else []
        for (_, end, level, heading), following in zip(marks, starts[1:], strict=True):
            found.append(Section(heading, level, "\n".join(lines[end:following]).strip()))
        return tuple(found)


def title_of(markdown: str) -> str:
    """The words of the first heading that has any, at most 120 characters; empty without one."""
    tokens = parse(markdown)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and (title := plain_text(inline)):
            return title if len(title) <= _TITLE_CHARS else title[: _TITLE_CHARS - 1] + "…"
    return ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document's bytes in one format, and what to call them."""

    format: str
    media_type: str
    filename: str
    content: bytes


_MEDIA = {
    "markdown": ("md", "text/markdown; charset=utf-8"),
    "html": ("html", "text/html; charset=utf-8"),
    "txt": ("txt", "text/plain; charset=utf-8"),
    "json": ("json", "application/json"),
}


def render(document: Document, format: str) -> Rendered:
    """The document in one of ``markdown html txt json``. Raises InvalidRequest for another.

    Needs the extra ``documents``.
    """
    if format == "markdown":
        text = document.markdown + "\n"
    elif format == "html":
        from blatam_kv.bul.webpage import webpage

        text = webpage(document)
    elif format == "txt":
        from blatam_kv.bul.plaintext import plaintext

        text = plaintext(document)
    elif format == "json":
        text = _as_json(document)
    else:
        raise InvalidRequest(f"{format!r} is not one of {', '.join(_MEDIA)}", field="format")
    extension, media_type = _MEDIA[format]
    return Rendered(format, media_type, filename(document.title, extension), text.encode())


def _as_json(document: Document) -> str:
    fields = {
        "title": document.title,
        "language": document.language,
        "document_type": document.document_type,
        "business_area": document.business_area,
        "sections": [asdict(section) for section in document.sections],
    }
    return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"


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
