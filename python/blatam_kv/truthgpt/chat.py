"""The words of OpenAI's chat completions: a request from our terms, our terms from an event."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blatam_kv.errors import ModelError
from blatam_kv.truthgpt.endpoint import (
    Endpoint,
    EndpointRefused,
    MalformedAnswer,
    parse_json,
)
from blatam_kv.truthgpt.protocol import FinishReason, Message, Sampling, Usage

# OpenAI takes at most this many; the rest is watched for on this side only.
MAX_STOP_STRINGS = 4
# Below llama.cpp's marker for "random" and far below where JSON numbers lose digits.
SEEDS = 2**31 - 1

FINISHED: Mapping[str, FinishReason] = {"stop": "stop", "eos": "stop", "length": "length"}

_OVERFLOW = re.compile(
    r"context (length|window|size)|maximum context|max_model_len|prompt is too long|too many tokens",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which of the words that not every endpoint knows are used with this one."""

    limit: str = "max_tokens"
    asks_usage: bool = True

    def without(self, refusal: str) -> Dialect | None:
        """The dialect to try after a refusal in these words; None if it is not about the dialect."""
        if self.limit == "max_tokens" and "max_completion_tokens" in refusal:
            return replace(self, limit="max_completion_tokens")
        if self.asks_usage and re.search("stream_options|include_usage", refusal):
            return replace(self, asks_usage=False)
        return None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event adds to the answer."""

    text: str = ""
    reason: FinishReason | None = None
    usage: Usage | None = None


def request_body(
    model: str, messages: Sequence[Message], sampling: Sampling, dialect: Dialect
) -> dict[str, object]:
    """The body of a streamed chat completion.

    The seed is sent modulo 2**31 - 1: endpoints disagree about larger ones, and llama.cpp takes
    the largest 32-bit number for "choose one".
    """
    body: dict[str, object] = {
        "model": model,
        "messages": spoken(messages),
        "stream": True,
        dialect.limit: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed % SEEDS,
    }
    if dialect.asks_usage:
        body["stream_options"] = {"include_usage": True}
    if sampling.stop:
        body["stop"] = list(sampling.stop[:MAX_STOP_STRINGS])
    return body


def spoken(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as the protocol writes them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def read_piece(data: str, endpoint: Endpoint) -> Piece:
    """One event's data. Raises MalformedAnswer, and what an error inside the stream stands for."""
    event = parse_json(data, what=f"an event of {endpoint.base_url}")
    if not isinstance(event, dict):
        raise _malformed("an event is not an object")
    if event.get("error"):
        raise _error_in_stream(event["error"], data, endpoint)
    usage = None if event.get("usage") is None else read_usage(event["usage"])
    choices = event.get("choices", [])
    if not isinstance(choices, list):
        raise _malformed("choices is not a list")
    if not choices:
        return Piece(usage=usage)
    choice = choices[0]
    if not isinstance(choice, dict):
        raise _malformed("a choice is not an object")
    delta = choice.get("delta") or {}
    text = delta.get("content") if isinstance(delta, dict) else 0
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise _malformed("a delta's content is not text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _malformed("a delta's content holds half a character")
    return Piece(text, _reason(choice.get("finish_reason")), usage)


def _reason(reason: object) -> FinishReason | None:
    if reason is None:
        return None
    if isinstance(reason, str) and reason in FINISHED:
        return FINISHED[reason]
    if reason == "content_filter":
        raise ModelError("the endpoint's content filter withheld the answer; word the query anew")
    raise _malformed(f"the answer ended for a reason that is not ours: {reason!r:.60}")


def read_usage(usage: object) -> Usage:
    """Token counts as the endpoint reports them. Raises MalformedAnswer."""
    if not isinstance(usage, dict):
        raise _malformed("usage is not an object")
    details = usage.get("prompt_tokens_details") or {}
    cached = (details.get("cached_tokens") if isinstance(details, dict) else None) or 0
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens", 0), cached)
    for count in counts:
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise _malformed("usage holds something that is not a count of tokens")
    prompt, completion, cached = counts
    assert prompt is not None
    return Usage(prompt, completion, min(cached, prompt))


def _error_in_stream(error: Any, data: str, endpoint: Endpoint) -> ModelError:
    """The stream began with 200, so the status is in the error's code, if anywhere."""
    code = error.get("code") if isinstance(error, dict) else None
    digits = str(code) if isinstance(code, (int, str)) else ""
    status = int(digits) if re.fullmatch("[45][0-9][0-9]", digits) else 500
    return endpoint.refusal(status, data.encode())


def _malformed(what: str) -> MalformedAnswer:
    return MalformedAnswer(f"the endpoint's answer is not a chat completion: {what}")


def overflows(error: EndpointRefused) -> bool:
    """Whether a refusal means that prompt and answer do not fit into the model's context."""
    return error.status in (400, 413, 422) and (
        error.code in ("context_length_exceeded", "exceed_context_size_error")
        or _OVERFLOW.search(error.reason) is not None
    )


def estimate_text(text: str) -> int:
    """Tokens of a text, estimated: a third of its UTF-8 bytes, rounded up.

    Tokenizers of today make 3.5 to 5 bytes of Spanish or English prose into one token and about
    one token of a Chinese character (3 bytes), so this errs on the side of too many.
    """
    return math.ceil(len(text.encode()) / 3)


def estimate_prompt(messages: Sequence[Message]) -> int:
    """Tokens of a prompt, estimated: its texts, 4 for each message's frame, 3 for the answer's."""
    return sum(estimate_text(message.content) + 4 for message in messages) + 3
