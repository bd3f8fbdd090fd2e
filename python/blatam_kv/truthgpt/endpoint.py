"""One HTTP endpoint that speaks OpenAI's dialect: one pool, deadlines, retries, errors with names.

Asking for an answer changes nothing at the endpoint, so asking again is safe as long as nothing of
the answer was passed on. ``EndpointUnavailable`` is what another attempt may cure, and the only
error that is retried: no connection, a connection dropped before the first piece, 408, 409, 429 and
5xx. Silence (``EndpointTimeout``) is not: the model may be busy with the first attempt.

The key is in one header of the pool and nowhere else: no message, no repr and no log line holds it,
not even where an endpoint repeats it in its own error.
"""

from __future__ import annotations

import email.utils
import json
import random
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from blatam_kv.config import Secret
from blatam_kv.errors import ConfigError, MissingExtra, ModelError
from blatam_kv.tracing import carried
from blatam_kv.truthgpt.events import EventParser

try:
    import httpx
except ImportError as error:
    raise MissingExtra("httpx", extra="server") from error

KEY_SETTING = "BUL_OPENAI_API_KEY"
MAX_JSON_BYTES = 16 << 20
MAX_REASON_CHARACTERS = 300
RETRIED_STATUS = frozenset({408, 409, 429})
NEVER_RETRIED = frozenset({501, 505})

T = TypeVar("T")


class EndpointUnavailable(ModelError):
    """The endpoint does not answer now; ``retry_after`` is the seconds it asked to wait, if any."""

    elsewhere = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EndpointTimeout(ModelError):
    """The endpoint was silent for too long, or the answer took longer than it may."""


class EndpointSilent(EndpointTimeout):
    """It was silent."""

    elsewhere = True


class EndpointRefused(ModelError):
    """The endpoint refused the request; ``status`` is HTTP's, ``reason`` its own words."""

    transient = False

    def __init__(self, message: str, *, status: int, code: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.reason = status, code, reason


class NotAuthorized(EndpointRefused):
    """The endpoint wants another key."""


class UnknownModel(EndpointRefused):
    """The endpoint has no model of this name; the message lists those it has."""


class MalformedAnswer(ModelError):
    """What came back is not what the protocol allows."""


class BrokenAnswer(ModelError):
    """The answer broke off after it had begun. What came of it is not an answer."""

    elsewhere = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds.

    connect: for a connection. read: for the next piece, so also for the first token. total: for one
    answer with all attempts and waits; it is looked at before each attempt, wait and piece, so it is
    overrun by at most ``read``.
    """

    connect: float = 5.0
    read: float = 120.0
    total: float = 600.0

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            seconds = getattr(self, name)
            if not 0 < seconds < 1e9:
                raise ConfigError(f"{name} must be a number of seconds above 0, not {seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how soon to try again: exponential backoff with full jitter.

    Before attempt n + 1 the wait is uniform in [0, min(longest, first * 2**(n - 1))] seconds, and
    never less than the endpoint's Retry-After. A Retry-After above ``longest`` ends the attempts.
    """

    attempts: int = 4
    first: float = 0.5
    longest: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"attempts must be at least 1, not {self.attempts}")
        if not 0 <= self.first <= self.longest:
            raise ConfigError(f"first must be 0 to {self.longest} seconds, not {self.first}")

    def wait(self, failed: int, retry_after: float | None, chance: float) -> float | None:
        """Seconds to wait after ``failed`` failed attempts; None: give up."""
        if failed >= self.attempts or (retry_after or 0.0) > self.longest:
            return None
        # The exponent is bounded because 2.0**1024 is an error.
        backoff = min(self.longest, self.first * 2.0 ** min(failed - 1, 60))
        return max(chance * backoff, retry_after or 0.0)


class Endpoint:
    """Requests to one base URL. Safe from any thread; close it when done.

    connections: open at a time, at most. clock: monotonic seconds. sleep: waits between attempts,
    by default until ``close`` at the latest. chance: uniform in [0, 1). Raises ConfigError for a
    URL or key that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: Secret | None = None,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        connections: int = 64,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = checked_base_url(base_url)
        self.root_url = self.base_url.removesuffix("/v1")
        self.timeouts = timeouts or Timeouts()
        self.retries = retries or Retries()
        self.clock = clock
        self._key = checked_key(key)
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._chance = chance
        headers = {"Accept-Encoding": "identity", "User-Agent": "blatam-kv"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        self._client = httpx.Client(
            headers=headers,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            # A redirect would carry prompts, and perhaps the key, to an address nobody chose.
            follow_redirects=False,
        )

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"

    def close(self) -> None:
        """Close the pool and end the waits between attempts. Safe to call twice."""
        self._closed.set()
        self._client.close()

    def deadline(self) -> float:
        """When an answer that begins now must be whole, on the endpoint's clock."""
        return self.clock() + self.timeouts.total

    def attempt(self, call: Callable[[], T], *, deadline: float) -> T:
        """What ``call`` returns, called again while it raises EndpointUnavailable and may be."""
        failed = 0
        while True:
            try:
                return call()
            except EndpointUnavailable as error:
                failed += 1
                seconds = self.retries.wait(failed, error.retry_after, self._chance())
                if seconds is None or self.clock() + seconds >= deadline or self._closed.is_set():
                    raise
                self._sleep(seconds)

    def ask(
        self, method: str, url: str, body: object = None, *, read_seconds: float | None = None
    ) -> object:
        """One request, one JSON answer, no retry. Raises the errors above."""
        deadline = self.deadline()
        with self._translated(), self._response(method, url, body, deadline, read_seconds) as reply:
            content = _read(reply, MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise MalformedAnswer(f"{url} answered with more than {MAX_JSON_BYTES:,} bytes")
        return parse_json(content, what=f"the answer of {url}")

    def events(self, url: str, body: object, *, deadline: float) -> Generator[str, None, None]:
        """The data of each server-sent event that a POST is answered with.

        The request is sent at the first ``next``; closing the generator ends the connection.
        """
        with self._translated(), self._response("POST", url, body, deadline, None) as reply:
            media_type = reply.headers.get("Content-Type", "nothing")
            if not media_type.startswith("text/event-stream"):
                raise MalformedAnswer(
                    f"{url} answered with {self._clean(media_type)}, not with a stream of events"
                )
            parser = EventParser()
            for content in reply.iter_bytes():
                if self.clock() >= deadline:
                    raise EndpointTimeout(
                        f"the answer took more than {self.timeouts.total:g} s; ask for a shorter "
                        "one or raise BUL_OPENAI_TOTAL_TIMEOUT"
                    )
                try:
                    yield from parser.push(content)
                except ValueError as error:
                    raise MalformedAnswer(f"{url} sent {error}") from None

    @contextmanager
    def _response(
        self, method: str, url: str, body: object, deadline: float, read_seconds: float | None
    ) -> Iterator[httpx.Response]:
        """A successful response whose body is still to be read."""
        if self._closed.is_set():
            raise ModelError(f"the client of {self.base_url} is closed")
        left = deadline - self.clock()
        if left <= 0:
            raise EndpointTimeout(
                f"{self.base_url} gave no answer within {self.timeouts.total:g} s; raise "
                "BUL_OPENAI_TOTAL_TIMEOUT if it needs longer"
            )
        connect = min(self.timeouts.connect, left)
        read = min(read_seconds or self.timeouts.read, left)
        request = self._client.build_request(
            method,
            url,
            content=None if body is None else json.dumps(body).encode(),
            headers={} if body is None else {"Content-Type": "application/json", **carried()},
            timeout=httpx.Timeout(connect=connect, pool=connect, read=read, write=read),
        )
        response = self._client.send(request, stream=True)
        try:
            if not response.is_success:
                raise self._refusal(response)
            yield response
        finally:
            response.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns the transport's exceptions into ours; the rest passes."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            reason = str(error) or "no connection in time"
            raise EndpointUnavailable(
                f"nobody answers at {self.base_url} ({self._clean(reason)}); is the server running "
                "and BUL_OPENAI_BASE_URL right?"
            ) from error
        except httpx.TimeoutException as error:
            raise EndpointSilent(
                f"{self.base_url} was silent for too long; raise BUL_OPENAI_READ_TIMEOUT "
                f"({self.timeouts.read:g} s) if the model needs longer"
            ) from error
        except httpx.TransportError as error:
            reason = self._clean(str(error)) or type(error).__name__
            raise EndpointUnavailable(
                f"{self.base_url} dropped the connection ({reason})"
            ) from error
        except httpx.HTTPError as error:
            raise MalformedAnswer(
                f"{self.base_url} answered with something that is not HTTP as it should be: "
                f"{self._clean(str(error))}"
            ) from error

    def _refusal(self, response: httpx.Response) -> ModelError:
        """The error for a response that is not a success."""
        status = response.status_code
        try:
            content = _read(response, 1 << 16)
        except httpx.HTTPError:
            content = b""  # the status says enough
        return self.refusal(status, content, retry_after=retry_after(response.headers))

    def refusal(
        self, status: int, content: bytes, *, retry_after: float | None = None
    ) -> ModelError:
        """The error for an HTTP status and a body that explains it."""
        reason, code = explanation(content)
        reason = self._clean(reason)
        said = f" ({status}: {reason})" if reason else f" ({status})"
        if status in (401, 403):
            problem = "wants a key" if self._key is None else "does not accept the key"
            message = f"{self.base_url} {problem}{said}; set {KEY_SETTING} to a valid one"
            return NotAuthorized(message, status=status, code=code, reason=reason)
        # An empty account is not filled by asking again.
        again = status in RETRIED_STATUS or (status >= 500 and status not in NEVER_RETRIED)
        if again and code != "insufficient_quota":
            message = f"{self.base_url} cannot answer now{said}; try again later"
            return EndpointUnavailable(message, retry_after=retry_after)
        message = f"{self.base_url} refused the request{said}"
        return EndpointRefused(message, status=status, code=code, reason=reason)

    def _clean(self, text: str) -> str:
        """Someone else's words, fit for a message: one line, not long, without the key."""
        if self._key is not None:
            text = text.replace(self._key.reveal(), "***")
        return _line(text)


def checked_base_url(url: str) -> str:
    """The base URL without a slash at its end; one without a path gets OpenAI's ``/v1``."""
    example = "http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError(f"the endpoint's base URL must look like {example}") from None
    if "@" in parts.netloc:
        raise ConfigError(f"the endpoint's base URL must hold no password; use {KEY_SETTING}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"the endpoint's base URL must look like {example}, not {_line(url)!r}")
    if not url.isascii() or any(character <= " " for character in url):
        raise ConfigError("the endpoint's base URL must be printable ASCII without spaces")
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def checked_key(key: Secret | None) -> Secret | None:
    """The key, if it can stand in a header. The error never shows it."""
    if key is None:
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", key.reveal()):
        raise ConfigError(f"{KEY_SETTING} must be printable ASCII without spaces or line ends")
    return key


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that Retry-After asks for: a number, or a date against the response's own Date."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    try:
        then = email.utils.parsedate_to_datetime(value)
        now = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, (then - now).total_seconds())
    except (TypeError, ValueError):
        return None


def explanation(content: bytes) -> tuple[str, str]:
    """(message, code) of an error body; the whole body if it has no known form."""
    text = content.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text, ""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return str(error), ""
    message = error.get("message") or error.get("detail") or text
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    return str(message), str(code or "")


def parse_json(content: str | bytes, *, what: str) -> object:
    """The value. Raises MalformedAnswer."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise MalformedAnswer(f"{what} is not JSON") from None


def _read(response: httpx.Response, most: int) -> bytes:
    """The body, cut after about ``most`` bytes."""
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) >= most:
            break
    return bytes(content[:most])


def _line(text: str) -> str:
    """Text on one line of printable characters, cut."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) <= MAX_REASON_CHARACTERS:
        return text
    return text[: MAX_REASON_CHARACTERS - 1] + "…"
