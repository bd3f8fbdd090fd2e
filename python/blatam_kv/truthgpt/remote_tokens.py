"""Prompt tokens counted by the endpoint's own tokenizer, where it shows one.

Two servers do, beside the OpenAI paths: vLLM's ``/tokenize`` applies the chat template itself,
llama.cpp has ``/apply-template`` and a ``/tokenize`` of text. Which one is there is found out by
asking, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from blatam_kv.errors import ModelError
from blatam_kv.truthgpt.chat import spoken
from blatam_kv.truthgpt.endpoint import (
    Endpoint,
    EndpointTimeout,
    EndpointUnavailable,
)
from blatam_kv.truthgpt.protocol import Message

# Counting must not hold up a request that can do with an estimate.
READ_SECONDS = 5.0
# After a failure nobody asks again for this long.
REST_SECONDS = 30.0


class TokenCounter:
    """Counts by the endpoint. Safe from any thread: threads may at most find out the same twice."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self._model = model
        self._ways: tuple[Callable[[Sequence[Message]], int | None], ...] = (
            self._like_vllm,
            self._like_llama_cpp,
        )
        self._sure = False
        self._rests_until = float("-inf")

    def count(self, messages: Sequence[Message]) -> int | None:
        """Tokens of the prompt, or None where the endpoint cannot say, now or ever."""
        if self._endpoint.clock() < self._rests_until:
            return None
        for way in self._ways:
            try:
                count = way(messages)
            except (EndpointUnavailable, EndpointTimeout):
                self._rests_until = self._endpoint.clock() + REST_SECONDS
                return None
            except ModelError:
                count = None
            if count is not None:
                self._ways, self._sure = (way,), True
                return count
        if not self._sure:
            self._ways = ()
        return None

    def _like_vllm(self, messages: Sequence[Message]) -> int | None:
        # No "content": what llama.cpp would count here is nothing, and no "count" comes back.
        body = {"model": self._model, "messages": spoken(messages), "add_generation_prompt": True}
        return _count(self._ask("tokenize", body), "count")

    def _like_llama_cpp(self, messages: Sequence[Message]) -> int | None:
        templated = self._ask("apply-template", {"messages": spoken(messages)})
        prompt = templated.get("prompt") if isinstance(templated, dict) else None
        if not isinstance(prompt, str):
            return None
        body = {"content": prompt, "add_special": True, "parse_special": True}
        answer = self._ask("tokenize", body)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        return len(tokens) if isinstance(tokens, list) and tokens else None

    def _ask(self, name: str, body: object) -> object:
        url = f"{self._endpoint.root_url}/{name}"
        return self._endpoint.ask("POST", url, body, read_seconds=READ_SECONDS)


def _count(answer: object, name: str) -> int | None:
    value = answer.get(name) if isinstance(answer, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
