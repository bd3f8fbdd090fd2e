"""Paths that others have taken the place of, and how their callers are told.

``Deprecation`` (RFC 9745) says since when, ``Sunset`` (RFC 8594) until when it works, and ``Link``
what to call instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outdated:
    """since: when the path was declared outdated. until: when it may go, None if that is open.
    successor: the path to use."""

    since: datetime
    successor: str
    until: datetime | None = None
    pairs: tuple[tuple[bytes, bytes], ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.until is not None and self.until <= self.since:
            raise ValueError("a path goes after it is declared outdated, not before")
        pairs = [(b"deprecation", b"@%d" % self.since.timestamp())]
        if self.until is not None:
            moment = format_datetime(self.until.astimezone(UTC), usegmt=True)
            pairs.append((b"sunset", moment.encode()))
        pairs.append((b"link", f'<{self.successor}>; rel="successor-version"'.encode()))
        object.__setattr__(self, "pairs", tuple(pairs))


def original(successor: str) -> Outdated:
    """For the paths of the original system, kept for those who come from it."""
    return Outdated(
        since=datetime(2026, 11, 25, tzinfo=UTC),
        until=datetime(2027, 11, 25, tzinfo=UTC),
        successor=successor,
    )
