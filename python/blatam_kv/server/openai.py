"""The OpenAI-compatible face: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``.

Clients written for OpenAI's API work unchanged with this base URL and a key of this service. Hits
stream too, and keep the usage that the answer had when it was written, with ``cached: true``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from blatam_kv.bul.caller import Caller, Scope
from blatam_kv.bul.chat import (
    MODEL,
    Asked,
    ChatOrder,
    ChatRequest,
    CompletionRequest,
    orders,
    parse,
)
from blatam_kv.bul.chats import Chats, Listener, Telling, TooManyChats
from blatam_kv.bul.pipeline import Answer, Found
from blatam_kv.bul.request import RequestRejected
from blatam_kv.bul.tasks import CacheResult
from blatam_kv.bul.wanted import Wanted
from blatam_kv.bul.wishes import Wishes, wishes_of
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.metrics import ServiceMetrics
from blatam_kv.server.body import Recent
from blatam_kv.server.fields import field, fields, new_id
from blatam_kv.server.gate import Door
from blatam_kv.server.leaving import unless_left
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import END_OF_STREAM, Ready, json_reply

# Proxies and clients give up on a connection that is silent for longer.
_SILENCE_SECONDS = 15.0
Chat = Wanted[Asked, list[ChatOrder]]

# An answer that is longer is written as JSON anew at each hit.
_LONGEST_READY = 16 << 10
# Where hits come from, the nearest first.
_TIERS = ("memory", "disk", "redis")
_NO_BUFFER = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the two endpoints: names, and where the text goes."""

    prefix: str
    whole: str
    piece: str
    message: Callable[[str], dict[str, Any]]
    delta: Callable[[str | None], dict[str, Any]]


class _Head(NamedTuple):
    """What an answer begins with, and the name of the first of it in the cache."""

    id: str
    model: str
    key: str


_CHAT = Dialect(
    prefix="chatcmpl-",
    whole="chat.completion",
    piece="chat.completion.chunk",
    message=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    delta=lambda text: {"delta": {} if text is None else {"content": text}},
)
_COMPLETION = Dialect(
    prefix="cmpl-",
    whole="text_completion",
    piece="text_completion",
    message=lambda text: {"text": text},
    delta=lambda text: {"text": text or ""},
)


class OpenAIFace:
    """The endpoints. ttl: seconds an answer stays fresh, None for ever."""

    def __init__(self, chats: Chats, metrics: ServiceMetrics, *, ttl: float | None) -> None:
        self._chats = chats
        self._metrics = metrics
        self._ttl = ttl
        self._since = int(time.time())

    def doors(self) -> list[Door]:
        """Every endpoint, what it takes, and how it is read."""
        return [
            Door(
                path="/v1/chat/completions",
                method="POST",
                once=True,
                answer=self.chat,
                read=Recent(lambda payload: _wanted(payload, ChatRequest)),
                body=ChatRequest,
                example={
                    "model": MODEL,
                    "messages": [{"role": "user", "content": "¿Qué es una masa madre?"}],
                    "temperature": 0.3,
                },
                scope=Scope.CHAT,
                policy="write",
            ),
            Door(
                path="/v1/completions",
                method="POST",
                once=True,
                answer=self.completion,
                read=Recent(lambda payload: _wanted(payload, CompletionRequest)),
                body=CompletionRequest,
                example={"model": MODEL, "prompt": "Una masa madre es", "max_tokens": 60},
                scope=Scope.CHAT,
                policy="write",
            ),
            Door(path="/v1/models", answer=self.models, scope=Scope.CHAT),
            Door(path="/v1/models/{id:path}", answer=self.model, scope=Scope.CHAT),
        ]

    async def chat(self, request: Request, caller: Caller, wanted: Chat) -> Response:
        """Answer a conversation."""
        return await self._answer(request, caller, wanted, _CHAT)

    async def completion(self, request: Request, caller: Caller, wanted: Chat) -> Response:
        """Answer a prompt."""
        return await self._answer(request, caller, wanted, _COMPLETION)

    async def models(self, request: Request, caller: Caller, wanted: None) -> Response:
        """Every name that ``model`` may be."""
        data = [self._model(name) for name in self._names()]
        return json_reply({"object": "list", "data": data})

    async def model(self, request: Request, caller: Caller, wanted: None) -> Response:
        """One of them."""
        self._check_known(request.path_params["id"])
        return json_reply(self._model(request.path_params["id"]))

    # ---- an answer ------------------------------------------------------------------------------

    async def _answer(
        self, request: Request, caller: Caller, wanted: Chat, dialect: Dialect
    ) -> Response:
        arrived = time.perf_counter()
        asked = wanted.request
        self._check_known(asked.model)
        wished = wanted.order(self._chats.model, caller)
        wishes = wishes_of(asked.cache, field(request.scope, b"cache-control"))
        found = [self._chats.lookup(order, wishes) for order in wished]
        there = [each for each in found if each is not None]
        head = _Head(dialect.prefix + new_id(12), asked.model, wished[0].key)
        if len(there) == len(wished):
            answers = [each.answer for each in there]
            self._count("hit", arrived, _tier(there))
            if asked.stream:
                heard = [Telling.of(answer).listener() for answer in answers]
                told = self._told(head, "hit", answers[0])
                return self._streamed(head, asked, dialect, heard, "hit", told)
            return self._whole(head, answers, dialect, "hit", wanted)
        if wishes.only_if_cached:
            raise Problem(504, "the answer is not in the cache, and only-if-cached was asked")
        heard, how = await self._listen(wished, wishes)
        count = partial(self._count, how if wishes.look else "bypass", arrived, _tier(heard))
        if asked.stream:
            told = self._told(head, how, None)
            return self._streamed(head, asked, dialect, heard, how, told, count)
        try:
            if b"idempotency-key" in fields(request.scope):  # who asks again means to find it then
                answers = await _all(heard)
            else:
                answers = await unless_left(request.receive, _all(heard))
        except (ModelError, InvalidRequest) as error:
            raise Problem(503, str(error)) from None
        finally:
            for listener in heard:
                listener.close()
        count()
        return self._whole(head, answers, dialect, how, wanted)

    async def _listen(
        self, wished: Sequence[ChatOrder], wishes: Wishes
    ) -> tuple[list[Listener], CacheResult]:
        """Listeners to all answers, begun by now, and what the cache knew of the first."""
        heard: list[Listener] = []
        results: list[CacheResult] = []
        try:
            for order in wished:
                telling, how = await run_in_threadpool(self._chats.ask, order, wishes)
                heard.append(telling.listener())
                results.append(how)
        except TooManyChats as error:
            _close(heard)
            raise Problem(503, f"{error}; try again later", headers={"Retry-After": "1"}) from None
        except InvalidRequest as error:
            _close(heard)
            field_name = error.field or ""
            errors = [(field_name, str(error))]
            raise Problem(400, f"{field_name}: {error}", errors=errors) from None
        except ModelError as error:
            _close(heard)
            raise Problem(503, str(error)) from None
        return heard, "miss" if "miss" in results else results[0]

    def _whole(
        self,
        head: _Head,
        answers: list[Answer],
        dialect: Dialect,
        how: CacheResult,
        wanted: Chat,
    ) -> Response:
        """The answers in one piece. All of a hit's but its id is the same each time, and kept."""
        rest = None
        if how == "hit" and wanted.ready is not None and wanted.ready[0] == answers:
            rest = wanted.ready[1]
        if rest is None:
            choices = [
                {
                    "index": index,
                    **dialect.message(answer.text),
                    "logprobs": None,
                    "finish_reason": answer.finish_reason,
                }
                for index, answer in enumerate(answers)
            ]
            rest = orjson.dumps(
                {
                    "model": head.model,
                    "object": dialect.whole,
                    "created": int(answers[0].born),
                    "choices": choices,
                    "usage": _usage(answers, how),
                }
            )
            if how == "hit" and len(rest) <= _LONGEST_READY:
                wanted.ready = (answers, rest)
        body = b'{"id":"' + head.id.encode() + b'",' + rest[1:]
        return Ready(body, 200, self._told(head, how, answers[0]))

    def _streamed(
        self,
        head: _Head,
        asked: Asked,
        dialect: Dialect,
        heard: list[Listener],
        how: CacheResult,
        told: dict[str, str],
        count: Callable[[], object] = lambda: None,
    ) -> Response:
        base = {
            "id": head.id,
            "model": head.model,
            "object": dialect.piece,
            "created": int(time.time()),
        }
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage

        def event(**more: object) -> bytes:
            return b"data: " + orjson.dumps(base | more) + b"\n\n"

        def piece(index: int, text: str | None, reason: str | None = None) -> bytes:
            choice = {"index": index, **dialect.delta(text), "finish_reason": reason}
            return event(choices=[choice])

        async def events() -> AsyncIterator[bytes]:
            answers: list[Answer] = []
            try:
                for index, listener in enumerate(heard):
                    if dialect is _CHAT:
                        delta = {"role": "assistant", "content": ""}
                        first = {"index": index, "delta": delta, "finish_reason": None}
                        yield event(choices=[first])
                    async for text in listener.pieces(every=_SILENCE_SECONDS):
                        yield piece(index, text) if text else b": still here\n\n"
                    assert listener.answer is not None
                    answers.append(listener.answer)
                    yield piece(index, None, listener.answer.finish_reason)
                if with_usage:
                    yield event(choices=[], usage=_usage(answers, how))
                yield END_OF_STREAM
                count()
            except (ModelError, InvalidRequest) as error:
                # The status has been sent; a client tells a broken stream by this and the missing end.
                problem = {"message": str(error), "type": "server_error", "param": None}
                yield (
                    b"data: "
                    + orjson.dumps({"error": problem | {"code": "model_failed"}})
                    + b"\n\n"
                )
            finally:
                _close(heard)

        headers = {**_NO_BUFFER, **told}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    # ---- names ----------------------------------------------------------------------------------

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((MODEL, self._chats.model.model_id)))

    def _check_known(self, name: str) -> None:
        if name != MODEL and name not in self._names():
            raise Problem(
                404,
                f"there is no model {name[:100]!r}; there is {' and '.join(self._names())}",
                errors=[("model", "unknown")],
            )

    def _model(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "blatam-kv"}

    # ---- what is told of it ---------------------------------------------------------------------

    def _count(self, how: str, arrived: float, tier: str = "memory") -> None:
        self._metrics.cache_request(how, tier=tier if how == "hit" else "none")
        self._metrics.answered(time.perf_counter() - arrived)

    def _told(self, head: _Head, how: CacheResult, answer: Answer | None) -> dict[str, str]:
        """What the cache did (RFC 9211), and the age of what it had."""
        if how != "hit" or answer is None:
            collapsed = "; collapsed" if how == "collapsed" else ""
            return {"Cache-Status": f'blatam-kv; fwd=miss{collapsed}; key="{head.key}"'}
        age, ttl = max(0, int(time.time() - answer.born)), answer.ttl or self._ttl
        left = "" if ttl is None else f"; ttl={max(0, int(ttl - age))}"
        return {"Cache-Status": f'blatam-kv; hit{left}; key="{head.key}"', "Age": str(age)}


def _wanted(payload: object, kind: type[ChatRequest] | type[CompletionRequest]) -> Chat:
    try:
        return Wanted(parse(payload, kind), orders)
    except RequestRejected as error:
        fields = [(problem.field, problem.detail) for problem in error.problems]
        raise Problem(400, str(error), errors=fields) from None


def _usage(answers: Sequence[Answer], how: CacheResult) -> dict[str, object]:
    prompt = answers[0].usage.prompt_tokens
    written = sum(answer.usage.completion_tokens for answer in answers)
    usage: dict[str, object] = {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": answers[0].usage.cached_tokens},
    }
    return usage | {"cached": True} if how == "hit" else usage


def _tier(heard: Sequence[Listener | Found]) -> str:
    """Where a hit came from: the furthest place that any of its answers did."""
    return max((each.tier for each in heard), key=_TIERS.index)


async def _all(heard: Sequence[Listener]) -> list[Answer]:
    return [await listener.wait() for listener in heard]


def _close(heard: Sequence[Listener]) -> None:
    for listener in heard:
        listener.close()
