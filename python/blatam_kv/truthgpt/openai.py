"""``openai``: a model behind any endpoint that speaks OpenAI's chat completions.

vLLM, SGLang, the servers of llama.cpp and Ollama, and hosted services all do. Every answer is
streamed, also for ``generate``: one way to notice that it is whole, and a read timeout that means
silence rather than length. An answer is whole when its finish reason came and the stream ended in
order; anything else is an error, so half an answer can never reach a cache.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Self

from blatam_kv._core import framed_digest
from blatam_kv.cache import Cache
from blatam_kv.config import Secret, Settings, did_you_mean
from blatam_kv.errors import ConfigError, InvalidRequest, ModelError
from blatam_kv.truthgpt.chat import (
    Dialect,
    Piece,
    estimate_prompt,
    estimate_text,
    overflows,
    read_piece,
    request_body,
)
from blatam_kv.truthgpt.endpoint import (
    BrokenAnswer,
    Endpoint,
    EndpointRefused,
    EndpointUnavailable,
    Retries,
    Timeouts,
    UnknownModel,
)
from blatam_kv.truthgpt.listing import DEFAULT_CONTEXT_TOKENS, Listing, read_listing
from blatam_kv.truthgpt.protocol import (
    Chunk,
    Completion,
    FinishReason,
    Message,
    Sampling,
    Usage,
    joined,
)
from blatam_kv.truthgpt.release import Release
from blatam_kv.truthgpt.remote_tokens import TokenCounter

log = logging.getLogger("blatam_kv.truthgpt")

ROLES = ("system", "user", "assistant")
# How old the listing may be when a new answer begins. A hit asks nobody, so an endpoint that
# changes its model under the same name is noticed by the first miss after this many seconds.
LISTING_SECONDS = 60.0

# What an endpoint is told that has said a part of its answer.
GO_ON = (
    "Go on exactly where your text ends, in its language and format. Repeat nothing of it and add "
    "no remark. If it ends with a heading, write that section only."
)


class OpenAI:
    """A model behind an endpoint; implements TruthGPT. Any number of threads may share it.

    base_url: as OpenAI clients take it, ``http://127.0.0.1:8000/v1``. model: the endpoint's name
    for it. key: sent as a bearer token; a string or a Secret. context_tokens: by default what the
    endpoint says, else 4,096. replica_of: another base URL with the same model, under which its
    answers are known. clock, sleep, chance: see Endpoint. Raises ConfigError. Nothing is sent before
    the first use; use it in a ``with`` or close it.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: Secret | str | None = None,
        context_tokens: int | None = None,
        replica_of: str | None = None,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        connections: int = 64,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not model.strip():
            raise ConfigError("the endpoint's model needs a name; set BUL_OPENAI_MODEL")
        if context_tokens is not None and context_tokens < 1:
            raise ConfigError(f"context_tokens must be at least 1, not {context_tokens}")
        self.model_id = model
        self._endpoint = Endpoint(
            base_url,
            key=Secret(key) if isinstance(key, str) else key,
            timeouts=timeouts,
            retries=retries,
            connections=connections,
            clock=clock,
            sleep=sleep,
            chance=chance,
        )
        self._context_tokens = context_tokens
        self._known_as = replica_of or self.base_url
        self._lock = threading.Lock()
        self._listing: Listing | None = None
        self._listed_at = 0.0
        self._dialect = Dialect()
        self._counter = TokenCounter(self._endpoint, model)
        self._counts: Cache[bytes, int] = Cache(capacity=1024)

    def __repr__(self) -> str:
        return f"OpenAI({self.base_url!r}, {self.model_id!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Calls after it raise ModelError."""
        self._endpoint.close()

    @property
    def base_url(self) -> str:
        """Where the endpoint is, without a slash at the end."""
        return self._endpoint.base_url

    # What the endpoint says about its model.

    @property
    def fingerprint(self) -> str:
        """BLAKE2b-256, in hex, over base URL (or ``replica_of``), model and what ``/models`` says of the model.

        Asks the endpoint at the first use and, when answers are written, once a minute. It tells
        apart what the endpoint tells apart: weights swapped under one name and one listing stay
        unseen. Raises ModelError.
        """
        return self._known().fingerprint(self._known_as, self.model_id)

    @property
    def context_tokens(self) -> int:
        """Most tokens that prompt and answer may have together. Raises ModelError."""
        return self._context_tokens or self._known().context_tokens or DEFAULT_CONTEXT_TOKENS

    @property
    def offered(self) -> tuple[str, ...]:
        """Names of the endpoint's models, none if it does not list them. Raises ModelError."""
        return self._known().names

    def _known(self) -> Listing:
        if self._listing is None:
            with self._lock:
                if self._listing is None:
                    deadline = self._endpoint.deadline()
                    self._listing = self._endpoint.attempt(self._read_listing, deadline=deadline)
                    self._listed_at = self._endpoint.clock()
        return self._listing

    def _read_listing(self) -> Listing:
        return read_listing(self._endpoint, self.model_id)

    def _look_again(self) -> None:
        """Read the listing again if it is old. A failure leaves the old one for another minute."""
        with self._lock:
            now = self._endpoint.clock()
            if self._listing is None or now - self._listed_at < LISTING_SECONDS:
                return
            self._listed_at = now
        try:
            found = self._read_listing()
        except ModelError as error:
            log.warning("the list of models was not read again: %s", error)
            return
        if found.entry != self._listing.entry:
            log.warning("%s describes %s anew; cached answers of the old one no longer count",
                        self.base_url, self.model_id)  # fmt: skip
        self._listing = found

    # Answers.

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Prompt tokens that these messages take, template included.

        Exact where the endpoint has a tokenizer (vLLM, llama.cpp), remembered for the last 1,024
        prompts; elsewhere the estimate of ``estimate_prompt``. Never raises for the endpoint's
        sake.
        """
        _check(messages)
        turns = [part.encode() for message in messages for part in (message.role, message.content)]
        key = framed_digest(turns, person=b"blatamkv-toks-v1")
        count = self._counts.get(key)
        if count is None:
            count = self._counter.count(messages)
            if count is None:
                return estimate_prompt(messages)
            self._counts.put(key, count)
        return count

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        """The whole answer. Raises InvalidRequest if the prompt leaves no room, and ModelError."""
        return joined(self.stream(messages, sampling=sampling, salt=salt))

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """The same answer in pieces; their texts joined are exactly ``generate``'s text.

        Returns when the first piece is there, so what is retried and refused is over by then.
        Raises InvalidRequest and ModelError here; BrokenAnswer and other ModelErrors also later.
        """
        return self.resume(messages, "", sampling=sampling, salt=salt)

    def resume(
        self, messages: Sequence[Message], begun: str, *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """What follows ``begun``, the beginning of the answer. Raises as ``stream`` does.

        Chat endpoints differ in what they make of an answer that ends in the middle, so they are
        shown it as said and asked to go on.
        """
        _check(messages)
        if begun:
            messages = [*messages, Message("assistant", begun), Message("user", GO_ON)]
        self._look_again()
        answer = self._answer(messages, sampling)
        # A generator that has not begun would not close its connection when it is dropped.
        next(answer)
        return answer

    def _answer(
        self, messages: Sequence[Message], sampling: Sampling
    ) -> Generator[Chunk, None, None]:
        deadline = self._endpoint.deadline()
        first, pieces = self._endpoint.attempt(
            lambda: self._begin(messages, sampling, deadline), deadline=deadline
        )
        try:
            yield Chunk("")
            release, written = Release(sampling.stop), ""
            reason: FinishReason | None = None
            usage: Usage | None = None
            piece: Piece | None = first
            while piece is not None:
                text = release.push(piece.text.encode())
                reason, usage = piece.reason or reason, piece.usage or usage
                if text:
                    written += text
                    yield Chunk(text)
                if release.stopped:
                    break
                piece = self._next(pieces)
            rest = release.finish()
            if release.stopped:
                reason = "stop"
            if reason is None:
                raise BrokenAnswer(
                    f"{self.base_url} ended the answer of {self.model_id} without saying why it "
                    "is complete; ask again"
                )
            if usage is None:
                usage = Usage(self.count_tokens(messages), estimate_text(written + rest))
            yield Chunk(rest, reason, usage)
        finally:
            pieces.close()

    def _next(self, pieces: Iterator[Piece]) -> Piece | None:
        try:
            return next(pieces, None)
        except EndpointUnavailable as error:
            raise BrokenAnswer(f"the answer broke off: {error}; ask again") from error

    def _begin(
        self, messages: Sequence[Message], sampling: Sampling, deadline: float
    ) -> tuple[Piece, Generator[Piece, None, None]]:
        """Send the request; the first piece that says something, and those after it."""
        while True:
            dialect = self._dialect
            body = request_body(self.model_id, messages, sampling, dialect)
            pieces = self._pieces(body, deadline)
            try:
                for piece in pieces:
                    if piece.text or piece.reason:
                        return piece, pieces
            except EndpointRefused as error:
                # An endpoint that does not know one of our words gets the request without it.
                simpler = dialect.without(error.reason) if error.status in (400, 422) else None
                if simpler is None:
                    explained = self._explained(error)
                    if explained is None:
                        raise
                    raise explained from error
                self._dialect = simpler
            else:
                raise EndpointUnavailable(f"{self.base_url} ended the answer before its first word")

    def _pieces(self, body: object, deadline: float) -> Generator[Piece, None, None]:
        url = f"{self.base_url}/chat/completions"
        events = self._endpoint.events(url, body, deadline=deadline)
        try:
            for data in events:
                if data.strip() == "[DONE]":
                    return
                yield read_piece(data, self._endpoint)
        finally:
            events.close()

    def _explained(self, error: EndpointRefused) -> Exception | None:
        """What a refused chat request means to the caller, where that is more than it says."""
        if overflows(error):
            return InvalidRequest(
                f"the prompt leaves {self.model_id} no room to answer ({error.reason}). Shorten "
                "the messages",
                field="messages",
            )
        if error.status != 404:
            return None
        try:
            names = self._read_listing().names
        except ModelError:
            names = ()
        if not names:
            return EndpointRefused(
                f"{error}: no model {self.model_id!r}, or not the base URL of an OpenAI-compatible "
                "API, which most often ends in /v1",
                status=404,
            )
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if names[20:] else "")
        hint = did_you_mean(self.model_id, names)
        return UnknownModel(
            f"{self.base_url} has no model {self.model_id!r}{hint}; it offers: {shown}", status=404
        )


def from_settings(
    settings: Settings, *, replica_of: str | None = None, attempts: int | None = None
) -> OpenAI:
    """The model that the settings describe. attempts: instead of those of the settings. Raises
    ConfigError for what is missing."""
    for value, name in (
        (settings.openai_base_url, "base_url"),
        (settings.openai_model, "model"),
    ):
        if value is None:
            raise ConfigError(
                f"the model openai needs --openai-{name.replace('_', '-')}, "
                f"BUL_OPENAI_{name.upper()} or bul.openai_{name}"
            )
    assert settings.openai_base_url is not None
    assert settings.openai_model is not None
    return OpenAI(
        settings.openai_base_url,
        settings.openai_model,
        key=settings.openai_api_key,
        context_tokens=settings.openai_context_tokens,
        replica_of=replica_of,
        timeouts=Timeouts(
            connect=settings.openai_connect_timeout,
            read=settings.openai_read_timeout,
            total=settings.openai_total_timeout,
        ),
        retries=Retries(attempts=attempts or settings.openai_attempts),
    )


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidRequest("messages is empty; send at least one", field="messages")
    for message in messages:
        if message.role not in ROLES:
            raise InvalidRequest(
                f"role {message.role!r} is not one of {', '.join(ROLES)}", field="messages"
            )
        try:
            message.content.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"messages must be Unicode text; there is half a character at {error.start}",
                field="messages",
            ) from None
