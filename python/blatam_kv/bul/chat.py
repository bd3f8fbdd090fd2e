"""A conversation from outside, checked, and the orders it comes to: one for each answer wanted.

The fields are OpenAI's. Those that this service has no use for must be absent or say what it does
anyway: a switch without effect is an error that names it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from blatam_kv.bul.caller import Caller
from blatam_kv.bul.order import answer_digest, seed_of
from blatam_kv.bul.request import FieldProblem, RequestRejected, explain
from blatam_kv.bul.sanitise import clean
from blatam_kv.bul.wishes import CacheWishes, cache_key
from blatam_kv.truthgpt.protocol import Message, Sampling, TruthGPT

MODEL = "truthgpt"  # what any model is called here, besides its own name
MAX_CHARS = 1_000_000
MAX_MESSAGES = 1_000
_PERSON = b"blatamkv-chat-v1"


def _text(value: object) -> object:
    """A content in parts of text as one text."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ValueError("parts other than text are not understood by this model")
        if not isinstance(part.get("text"), str) or len(part) != 2:
            raise ValueError('a part looks like {"type": "text", "text": "..."}')
        texts.append(part["text"])
    return "".join(texts)


def _stop(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _only(*allowed: object) -> AfterValidator:
    def check(value: object) -> object:
        if value not in allowed:
            words = " or ".join(repr(each) for each in allowed if each is not None)
            raise ValueError(
                f"has no effect on this model; leave it out{words and ', or say '}{words}"
            )
        return value

    return AfterValidator(check)


Text = Annotated[str, BeforeValidator(_text), Field(max_length=MAX_CHARS), AfterValidator(clean)]
Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    BeforeValidator(_stop),
    Field(max_length=4),
]


class StreamOptions(BaseModel):
    """include_usage: a last piece tells the tokens. Padding against eavesdroppers is not offered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool = False
    include_obfuscation: Annotated[bool, _only(False)] = False


class ChatMessage(BaseModel):
    """One turn. ``developer`` is another word for ``system``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    name: str | None = None


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str = MODEL
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=16)] = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    cache: CacheWishes | None = None
    user: str | None = None  # the tenant is known by its key
    logit_bias: Annotated[dict[str, float] | None, _only(None, {})] = None
    presence_penalty: Annotated[float | None, _only(None, 0)] = None
    frequency_penalty: Annotated[float | None, _only(None, 0)] = None


class ChatRequest(_Asked):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    response_format: Annotated[dict[str, Any] | None, _only(None, {"type": "text"})] = None
    tools: Annotated[list[Any] | None, _only(None, [])] = None
    tool_choice: Annotated[str | None, _only(None, "none", "auto")] = None
    parallel_tool_calls: bool | None = None  # of tools there are none
    logprobs: Annotated[bool | None, _only(None, False)] = None
    metadata: dict[str, str] | None = None
    store: Annotated[bool | None, _only(None, False)] = None

    def turns(self) -> tuple[Message, ...]:
        """The conversation as a model reads it."""
        return tuple(
            Message("system" if turn.role == "developer" else turn.role, turn.content)
            for turn in self.messages
        )


class CompletionRequest(_Asked):
    """``POST /v1/completions``: the prompt is read as one turn of the user."""

    prompt: Text
    echo: Annotated[bool | None, _only(None, False)] = None
    suffix: Annotated[str | None, _only(None, "")] = None
    logprobs: Annotated[int | None, _only(None)] = None
    best_of: Annotated[int | None, _only(None, 1)] = None

    def turns(self) -> tuple[Message, ...]:
        """The prompt as a model reads it."""
        return (Message("user", self.prompt),)


Asked = ChatRequest | CompletionRequest


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """One answer that is wanted, and the key it is kept under."""

    messages: tuple[Message, ...]
    sampling: Sampling
    digest: bytes
    tenant: str
    salt: bytes = field(repr=False)
    key: str = ""  # the tenant's name for it in the cache


def parse(payload: object, kind: type[ChatRequest] | type[CompletionRequest]) -> Asked:
    """The request in a decoded JSON value. Raises RequestRejected, never anything else."""
    if not isinstance(payload, dict):
        raise RequestRejected([FieldProblem("", "must be an object")])
    try:
        asked = kind.model_validate(payload)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestRejected([explain(problem, kind) for problem in found]) from None
    if isinstance(asked, ChatRequest) and asked.max_tokens and asked.max_completion_tokens:
        problem = FieldProblem("max_tokens", "is another word for max_completion_tokens; send one")
        raise RequestRejected([problem])
    return asked


def orders(asked: Asked, model: TruthGPT, caller: Caller) -> list[ChatOrder]:
    """One order for each of the n answers; they differ in their seeds.

    Without a seed it follows from the conversation, so that the same request has the same answer.
    """
    usual, messages = Sampling(), asked.turns()
    most = asked.max_tokens
    if isinstance(asked, ChatRequest):
        most = most or asked.max_completion_tokens
    seed = seed_of(messages) if asked.seed is None else asked.seed
    namespace = None if asked.cache is None else asked.cache.namespace
    made = []
    for number in range(asked.n):
        sampling = Sampling(
            max_tokens=usual.max_tokens if most is None else most,
            # Adding zero turns -0.0 into 0.0: one temperature, one key.
            temperature=usual.temperature if asked.temperature is None else asked.temperature + 0.0,
            top_p=usual.top_p if asked.top_p is None else asked.top_p,
            seed=(seed + number) % 2**64,
            stop=tuple(asked.stop or ()),
        )
        digest = answer_digest(
            model, messages, sampling, salt=caller.salt, person=_PERSON, namespace=namespace
        )
        key = cache_key(digest, caller.salt)
        made.append(ChatOrder(messages, sampling, digest, caller.tenant, caller.salt, key))
    return made
