"""A letterhead from outside, checked: text that fits, and a logo that really is a picture."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from blatam_kv.bul.request import FieldProblem, RequestRejected, explain
from blatam_kv.bul.sanitise import clean
from blatam_kv.documents.letterhead import MAX_LINES, Letterhead, read_logo
from blatam_kv.documents.trial import try_letterhead


def _line(value: str) -> str:
    text = clean(value)
    if not text:
        raise ValueError("is empty")
    return text


class LetterheadRequest(BaseModel):
    """What is to stand at the head of a tenant's documents. logo: a PNG or JPEG in base64."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    company: Annotated[str, AfterValidator(_line)]
    lines: Annotated[list[Annotated[str, AfterValidator(_line)]], Field(max_length=MAX_LINES)] = []
    logo: str | None = None


def parse_letterhead(payload: object) -> Letterhead:
    """The letterhead in a decoded JSON value. Raises InvalidRequest, RequestRejected if the form is
    wrong. Draws the logo once, which takes some milliseconds."""
    try:
        request = LetterheadRequest.model_validate(payload)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestRejected([explain(each, LetterheadRequest) for each in found]) from None
    return to_letterhead(request)


def to_letterhead(request: LetterheadRequest) -> Letterhead:
    """The letterhead of a checked request. Raises and draws as ``parse_letterhead``."""
    logo = None
    if request.logo is not None:
        try:
            content = base64.b64decode(request.logo, validate=True)
        except (binascii.Error, ValueError):
            problem = FieldProblem("logo", "is not base64; send a PNG or JPEG in base64")
            raise RequestRejected([problem]) from None
        logo = read_logo(content)
    letterhead = Letterhead(request.company, tuple(request.lines), logo)
    if logo is not None:
        try_letterhead(letterhead)
    return letterhead
