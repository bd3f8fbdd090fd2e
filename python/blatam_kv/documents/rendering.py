"""A document's bytes in each of the six formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blatam_kv.documents.document import Document
from blatam_kv.documents.limits import check
from blatam_kv.documents.names import filename
from blatam_kv.errors import InvalidRequest

FORMATS = ("markdown", "html", "txt", "json", "docx", "pdf")
# Those that a company's letterhead stands on.
SHOW_LETTERHEADS = ("html", "docx", "pdf")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document's bytes in one format, and what to call them."""

    format: str
    media_type: str
    filename: str
    content: bytes

    @property
    def is_text(self) -> bool:
        """Whether the bytes are UTF-8."""
        return self.format not in ("docx", "pdf")


@dataclass(frozen=True, slots=True)
class _Format:
    extension: str
    media_type: str
    write: Callable[[Document], bytes]


def _markdown(document: Document) -> bytes:
    return f"{document.markdown}\n".encode()


def _html(document: Document) -> bytes:
    from blatam_kv.documents.webpage import webpage

    return webpage(document).encode()


def _txt(document: Document) -> bytes:
    from blatam_kv.documents.plaintext import plaintext

    return plaintext(document).encode()


def _json(document: Document) -> bytes:
    from blatam_kv.documents.structure import as_json

    return as_json(document).encode()


def _docx(document: Document) -> bytes:
    from blatam_kv.documents.word import word

    return word(document)


def _pdf(document: Document) -> bytes:
    from blatam_kv.documents.pdf import pdf

    return pdf(document)


_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_FORMATS: Mapping[str, _Format] = {
    "markdown": _Format("md", "text/markdown; charset=utf-8", _markdown),
    "html": _Format("html", "text/html; charset=utf-8", _html),
    "txt": _Format("txt", "text/plain; charset=utf-8", _txt),
    "json": _Format("json", "application/json", _json),
    "docx": _Format("docx", _WORD, _docx),
    "pdf": _Format("pdf", "application/pdf", _pdf),
}


def render(document: Document, format: str) -> Rendered:
    """The document in one of ``markdown html txt json docx pdf``.

    Raises InvalidRequest for another format and for a document beyond what a format takes
    (``limits``). Needs the extra ``documents``.
    """
    found = _FORMATS.get(format)
    if found is None:
        raise InvalidRequest(f"{format!r} is not one of {', '.join(FORMATS)}", field="format")
    check(document, format)
    content = found.write(document)
    return Rendered(format, found.media_type, filename(document.title, found.extension), content)
