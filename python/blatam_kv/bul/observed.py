"""A model whose calls are timed and counted, whoever makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from blatam_kv.errors import InvalidRequest
from blatam_kv.metrics import ModelMetrics, ServiceMetrics
from blatam_kv.tracing import Kind, Span, Value, current, reason_of, under
from blatam_kv.truthgpt.protocol import (
    Chunk,
    Completion,
    Continues,
    Message,
    Sampling,
    TruthGPT,
)


class Observed:
    """A TruthGPT that says and costs what another does, and notes each call."""

    def __init__(self, model: TruthGPT, metrics: ServiceMetrics, *, provider: str) -> None:
        self._model = model
        self._metrics = metrics
        self._provider = provider
        self._calls = ModelMetrics(metrics.histograms, provider=provider, model=model.model_id)

    @property
    def model_id(self) -> str:
        """The model's."""
        return self._model.model_id

    @property
    def fingerprint(self) -> str:
        """The model's."""
        return self._model.fingerprint

    @property
    def context_tokens(self) -> int:
        """The model's."""
        return self._model.context_tokens

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """The model's."""
        return self._model.count_tokens(messages)

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        """The model's answer, from its pieces."""
        pieces, last = [], Chunk("")
        for last in self.stream(messages, sampling=sampling, salt=salt):
            pieces.append(last.text)
        assert last.finish_reason is not None
        assert last.usage is not None
        return Completion("".join(pieces), last.finish_reason, last.usage)

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """The model's answer. One that is left before its end is neither a success nor a failure; a
        prompt that does not fit is its caller's mistake."""
        return self._watched(
            lambda: self._model.stream(messages, sampling=sampling, salt=salt), sampling
        )

    def resume(
        self, messages: Sequence[Message], begun: str, *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """The rest of the model's answer, for a model that ``Continues``."""
        model = self._model
        assert isinstance(model, Continues)
        return self._watched(
            lambda: model.resume(messages, begun, sampling=sampling, salt=salt), sampling
        )

    def _watched(self, ask: Callable[[], Iterator[Chunk]], sampling: Sampling) -> Iterator[Chunk]:
        start = time.perf_counter()
        first: float | None = None
        parent = current()
        call = None if parent is None else self._begun(parent, sampling)
        try:
            # Under it only to ask: between the pieces of a generator others work in this thread.
            with under(call):
                chunks = ask()
            for chunk in chunks:
                if first is None and chunk.text:
                    first = time.perf_counter() - start
                if chunk.usage is not None:
                    seconds = time.perf_counter() - start
                    self._calls.wrote(
                        seconds,
                        seconds if first is None else first,
                        prompt=chunk.usage.prompt_tokens,
                        completion=chunk.usage.completion_tokens,
                        cached=chunk.usage.cached_tokens,
                    )
                    if call is not None:
                        call.say(_said(chunk, first))
                yield chunk
        except Exception as error:
            if call is not None:
                call.fail(reason_of(error))
            if not isinstance(error, InvalidRequest):
                self._calls.failed(time.perf_counter() - start)
                self._metrics.failed("model")
            raise
        finally:
            if call is not None:
                call.end()

    def _begun(self, parent: Span, sampling: Sampling) -> Span:
        """The span of a call, in the words of OpenTelemetry's conventions for generative AI. Without
        the seed: it follows from the prompt.
        """
        name = self._model.model_id
        told: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider,
            "gen_ai.request.model": name,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
        }
        kind = Kind.CLIENT if self._provider == "openai" else Kind.INTERNAL
        return parent.child(f"chat {name}", told, kind=kind)


def _said(chunk: Chunk, first: float | None) -> dict[str, Value]:
    assert chunk.usage is not None
    told: dict[str, Value] = {
        "gen_ai.usage.input_tokens": chunk.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": chunk.usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": chunk.usage.cached_tokens,
    }
    if chunk.finish_reason is not None:
        told["gen_ai.response.finish_reasons"] = (chunk.finish_reason,)
    if first is not None:
        told["blatam_kv.seconds_to_first_text"] = first
    return told
