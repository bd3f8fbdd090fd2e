"""Whether a letterhead can be printed: its logo is drawn once before any document relies on it."""

from __future__ import annotations

from blatam_kv.documents.document import Document
from blatam_kv.documents.letterhead import Letterhead
from blatam_kv.documents.pdf import NotDrawn, pdf
from blatam_kv.documents.word import word
from blatam_kv.errors import InvalidRequest


def try_letterhead(letterhead: Letterhead) -> None:
    """Raises InvalidRequest if no document could be made with it."""
    from docx.image import exceptions

    broken = (
        exceptions.InvalidImageStreamError,
        exceptions.UnexpectedEndOfFileError,
        exceptions.UnrecognizedImageError,
    )
    document = Document(title="-", markdown="", language="en", letterhead=letterhead)
    try:
        pdf(document)
        word(document)
    except (NotDrawn, *broken) as error:
        raise InvalidRequest(
            "the logo cannot be drawn; save it again as PNG", field="logo"
        ) from error
