"""Traces: what one request did, as a tree of spans, for OpenTelemetry.

Whoever has something to tell asks for the span he works under (``current``, ``span``). Where nobody
opened one there is none: that costs a look at a context variable, and no library is loaded. A span
is opened at the doors of a service only, if the service was told to (``open_tracing``).

OpenTelemetry lives behind ``open_tracing``: no other module of this room may be imported at the top
of a module outside. No span holds a word of a prompt, an answer or a tenant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from blatam_kv.errors import MissingExtra

if TYPE_CHECKING:
    from blatam_kv.tracing.otel import Tracing

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]

_NOTHING: Attributes = {}
# What W3C's Trace Context calls the headers that carry a span from one service to the next.
TRACEPARENT = "traceparent"
HEADERS = (TRACEPARENT, "tracestate")


class Kind(StrEnum):
    """Who is on the other side: somebody who asks, somebody who is asked, nobody."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class Span(Protocol):
    """A stretch of time of a trace. Safe from any thread, also after its end: a document is written
    after its request was answered."""

    def child(
        self, name: str, attributes: Attributes = _NOTHING, *, kind: Kind = Kind.INTERNAL
    ) -> Span:
        """One within it, that begins now. Whoever opens it ends it."""

    def past(
        self, name: str, began: float, ended: float, attributes: Attributes = _NOTHING
    ) -> None:
        """One within it that is over. began, ended: of ``time.perf_counter``."""

    def call(self, name: str) -> None:
        """Give it the name that is known by now."""

    def say(self, attributes: Attributes) -> None:
        """Tell more of it."""

    def fail(self, reason: str) -> None:
        """It came to nothing; reason: a kind, never somebody's words."""

    def end(self) -> None:
        """It is over."""

    def headers(self) -> Mapping[str, str]:
        """What carries it to another service."""


_current: ContextVar[Span | None] = ContextVar("blatam_kv.span", default=None)


def current() -> Span | None:
    """The span that this thread, or task of a loop, works under."""
    return _current.get()


class under:  # a function in all but the word that makes it
    """For the body of a ``with``, work under a span; None for under none."""

    __slots__ = ("_before", "_span")

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def __enter__(self) -> Span | None:
        self._before: Token[Span | None] = _current.set(self._span)
        return self._span

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._before)


class _Within:
    """Works under a span and ends it."""

    __slots__ = ("_span", "_under")

    def __init__(self, span: Span) -> None:
        self._span, self._under = span, under(span)

    def __enter__(self) -> Span:
        self._under.__enter__()
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._under.__exit__()
        if error is not None:
            self._span.fail(reason_of(error))
        self._span.end()


_NO_SPAN: AbstractContextManager[None] = nullcontext()


def span(
    name: str, attributes: Attributes = _NOTHING, *, kind: Kind = Kind.INTERNAL
) -> AbstractContextManager[Span | None]:
    """For the body of a ``with``, work under a new span within the current one; None where there is
    none. What the body raises makes it a failure."""
    parent = _current.get()
    return _NO_SPAN if parent is None else _Within(parent.child(name, attributes, kind=kind))


def carried() -> Mapping[str, str]:
    """The headers that a request to another service should have: of the current span."""
    parent = _current.get()
    return {} if parent is None else parent.headers()


def reason_of(error: BaseException) -> str:
    """What an error is called in ``error.type``: its reason where it has one, else its kind."""
    reason = getattr(error, "reason", None)
    return str(reason) if isinstance(reason, StrEnum) else type(error).__name__


def open_tracing(service: str, *, version: str) -> Tracing:
    """Send this process's traces to where OpenTelemetry's own variables (``OTEL_…``) say.

    service: its name, unless OTEL_SERVICE_NAME says another. Raises MissingExtra, and ConfigError
    for a protocol other than HTTP.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "opentelemetry-sdk", extra="otel") from error
    from blatam_kv.tracing.otel import Tracing

    return Tracing(service, version=version)
