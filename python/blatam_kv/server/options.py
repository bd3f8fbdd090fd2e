"""The options behind the ``?`` of a URL, read as strictly as bodies are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from blatam_kv.bul.request import canonical_format, one_of
from blatam_kv.bul.storage import MAX_LIMIT
from blatam_kv.bul.tasks import FINISHED
from blatam_kv.config import did_you_mean
from blatam_kv.documents.rendering import FORMATS
from blatam_kv.documents.styles import STYLES
from blatam_kv.server.problem import Problem
from blatam_kv.truthgpt.brief import AREAS

# What makes a value of an option's text; raises ValueError with the fix.
Reader = Callable[[str], Any]

MAX_PAGE = 1_000_000
MAX_SEARCH_CHARS = 200


def read_options(request: Request, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The options that are there, by name. Raises Problem 422 that names every bad one."""
    found: dict[str, Any] = {}
    errors = []
    for name, text in request.query_params.multi_items():
        reader = readers.get(name)
        if reader is None:
            hint = did_you_mean(name[:100], readers)
            errors.append((name[:100], f"is not a known option{hint}"))
        elif name in found:
            errors.append((name, "is there twice"))
        else:
            try:
                found[name] = reader(text)
            except ValueError as error:
                errors.append((name, str(error)))
    if errors:
        detail = "; ".join(f"{field}: {text}" for field, text in errors)
        raise Problem(422, f"the request is not valid: {detail}", errors=errors)
    return found


def whole(low: int, high: int) -> Reader:
    """A reader of whole numbers."""

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        if not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return read


def choice(*allowed: str) -> Reader:
    """A reader of one of some names."""

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(one_of(text, allowed))
        return text

    return read


def switch(text: str) -> bool:
    """0 or 1."""
    if text not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return text == "1"


def format_name(text: str) -> str:
    """A format of documents by any of its names."""
    return str(choice(*FORMATS)(str(canonical_format(text))))


def search_text(text: str) -> str:
    """What to look for."""
    if not text.strip() or len(text) > MAX_SEARCH_CHARS:
        raise ValueError(f"must be a text of 1 to {MAX_SEARCH_CHARS} characters")
    return text


PAGES: Mapping[str, Reader] = {"page": whole(1, MAX_PAGE), "limit": whole(1, MAX_LIMIT)}
RENDERING: Mapping[str, Reader] = {
    "format": format_name,
    "style": choice(*STYLES),
    "download": switch,
}
AREA = choice(*AREAS)
STATUS = choice("queued", *FINISHED)
