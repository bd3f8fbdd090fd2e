"""Documents as files: named, sent whole or in part, and not at all to who has them already.

Conditions and ranges are RFC 9110, sections 13 and 14; names RFC 6266 and 8187. A request for
several ranges at once is answered with the whole file, as the RFC allows: few clients ask so, and
such requests have been used to exhaust servers.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from blatam_kv.documents.rendering import SHOW_LETTERHEADS, Rendered
from blatam_kv.server.fields import fields

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))\s*")
# Should a browser show it all the same: nothing runs, nothing is fetched.
_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'"


def sheet_reply(rendered: Rendered) -> Response:
    """A document that was made for this request alone: a file to keep, whole."""
    return Response(rendered.content, headers=_called(rendered))


def file_reply(request: Request, rendered: Rendered, born: float) -> Response:
    """A document as a file to keep, or the part of it that is asked for. born: Unix time."""
    content = rendered.content
    tag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
    # A letterhead may change when the document does not: then there is no date to go by.
    dated = rendered.format not in SHOW_LETTERHEADS
    modified = datetime.fromtimestamp(int(born), UTC) if dated else None
    headers = {
        "ETag": tag,
        # It may be kept by who asked, and asked for again each time: it may have been deleted.
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
    }
    if modified is not None:
        headers["Last-Modified"] = format_datetime(modified, usegmt=True)
    found = fields(request.scope)
    if b"if-match" in found and not _matches(found[b"if-match"], tag, weak=False):
        return Response(status_code=412, headers=headers)
    if _has_it(found.get(b"if-none-match"), found.get(b"if-modified-since"), tag, modified):
        return Response(status_code=304, headers=headers)
    headers |= _called(rendered)
    asked = _asked(found.get(b"range", ())) if request.method == "GET" else None
    if asked is None:
        return Response(content, headers=headers)
    if b"if-range" in found and not _unchanged(found[b"if-range"], tag, modified):
        return Response(content, headers=headers)
    part = _part(asked, len(content))
    if part is None:
        headers["Content-Range"] = f"bytes */{len(content)}"
        del headers["Content-Disposition"]
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
    return Response(content[part.start : part.stop], 206, headers)


def _called(rendered: Rendered) -> dict[str, str]:
    return {
        "Content-Type": rendered.media_type,
        "Content-Disposition": disposition(rendered.filename),
        "Content-Security-Policy": _POLICY,
    }


def disposition(name: str) -> str:
    """Content-Disposition for a file of this name: in ASCII for old clients, and as it is."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    # Some clients take a backslash or a percent sign for the beginning of an escape, and any
    # semicolon for the end of the name.
    plain = re.sub(r'[^\x20-\x7e]|["\\%;]', "_", plain).strip() or "document"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _matches(values: Sequence[str], tag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags has this one. weak: whether W/ before one does not matter."""
    text = ",".join(values)
    if text.strip() == "*":
        return True
    return any(found[2] == tag and (weak or not found[1]) for found in _TAG.finditer(text))


def _has_it(
    tags: Sequence[str] | None, since: Sequence[str] | None, tag: str, modified: datetime | None
) -> bool:
    if tags is not None:  # then the date does not count
        return _matches(tags, tag, weak=True)
    moment = _date(since)
    return moment is not None and modified is not None and modified <= moment


def _unchanged(values: Sequence[str], tag: str, modified: datetime | None) -> bool:
    if len(values) == 1 and '"' in values[0]:
        return values[0].strip() == tag
    return modified is not None and _date(values) == modified


def _date(values: Sequence[str] | None) -> datetime | None:
    if values is None or len(values) != 1:
        return None
    try:
        moment = parsedate_to_datetime(values[0])
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _asked(values: Sequence[str]) -> re.Match[str] | None:
    """The one range that is asked for; None for none, for several, and for what is no range."""
    found = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
    if found is None or (found[2] is not None and int(found[2]) < int(found[1])):
        return None
    return found


def _part(asked: re.Match[str], size: int) -> range | None:
    first, last, suffix = asked.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
        return range(start, stop) if int(suffix) and size else None
    start, stop = int(first), size if last is None else min(size, int(last) + 1)
    return range(start, stop) if start < size else None
