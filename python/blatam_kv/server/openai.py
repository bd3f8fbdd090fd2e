"""The OpenAI-compatible face: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``.

Clients written for OpenAI's API work unchanged with this base URL and a key of this service. Hits
stream too, and keep the usage that the answer had when it was written, with ``cached: true``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.request import RequestRejected
from blatam_kv.bul.tasks import CacheResult
from blatam_kv.bul.wanted import Wanted
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.metrics import ServiceMetrics
from blatam_kv.server.body import Recent
from blatam_kv.server.gate import Door
from blatam_kv.server.problem import Problem
from blatam_kv.server.replies import json_reply

# Proxies and clients give up on a connection that is silent for longer.
_SILENCE_SECONDS = 15.0
Chat = Wanted[Asked, list[ChatOrder]]

_NO_BUFFER = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the two endpoints: names, and where the text goes."""

    prefix: str
    whole: str
    piece: str
    message: Callable[[str], dict[str, Any]]
    delta: Callable[[str | None], dict[str, Any]]


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
                answer=self.chat,
                read=Recent(lambda payload: _wanted(payload, ChatRequest)),
                body=ChatRequest,
                scope=Scope.CHAT,
                policy="write",
            ),
            Door(
                path="/v1/completions",
                method="POST",
                answer=self.completion,
                read=Recent(lambda payload: _wanted(payload, CompletionRequest)),
                body=CompletionRequest,
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
        return json_reply(self._model(self._known(request.path_params["id"])))

    # ---- an answer ------------------------------------------------------------------------------

    async def _answer(
        self, request: Request, caller: Caller, wanted: Chat, dialect: Dialect
    ) -> Response:
        arrived = time.perf_counter()
        asked = wanted.request
        name = self._known(asked.model)
        wished = wanted.order(self._chats.model, caller)
        look, keep = _wishes(request, asked)
        found = [self._chats.lookup(order) if look else None for order in wished]
        answers = [answer for answer in found if answer is not None]
        head = {"id": dialect.prefix + secrets.token_hex(12), "model": name}
        if len(answers) == len(wished):
            self._count("hit", arrived)
            if asked.stream:
                heard = [Telling.of(answer).listener() for answer in answers]
                status = self._cache_status("hit", answers[0])
                return self._streamed(head, asked, dialect, heard, "hit", status, arrived)
            return self._whole(head, answers, dialect, "hit")
        heard, how = await self._listen(wished, join=look, keep=keep)
        if asked.stream:
            status = self._cache_status(how, None)
            return self._streamed(head, asked, dialect, heard, how, status, arrived)
        try:
            answers = [await listener.wait() for listener in heard]
        except (ModelError, InvalidRequest) as error:
            raise Problem(503, str(error)) from None
        finally:
            for listener in heard:
                listener.close()
        self._count(how, arrived)
        return self._whole(head, answers, dialect, how)

    async def _listen(
        self, wished: Sequence[ChatOrder], *, join: bool, keep: bool
    ) -> tuple[list[Listener], CacheResult]:
        """Listeners to all answers, begun by now, and what the cache knew of the first."""
        heard: list[Listener] = []
        results: list[CacheResult] = []
        try:
            for order in wished:
                telling, how = await run_in_threadpool(self._chats.ask, order, join=join, keep=keep)
                heard.append(telling.listener())
                results.append(how)
        except TooManyChats as error:
            _close(heard)
            raise Problem(503, f"{error}; try again later", headers={"Retry-After": "1"}) from None
        except InvalidRequest as error:
            _close(heard)
            field = error.field or ""
            raise Problem(400, f"{field}: {error}", errors=[(field, str(error))]) from None
        except ModelError as error:
            _close(heard)
            raise Problem(503, str(error)) from None
        return heard, "miss" if "miss" in results else results[0]

    def _whole(
        self, head: dict[str, str], answers: Sequence[Answer], dialect: Dialect, how: CacheResult
    ) -> Response:
        choices = [
            {
                "index": index,
                **dialect.message(answer.text),
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(answers)
        ]
        body = {
            **head,
            "object": dialect.whole,
            "created": int(answers[0].born),
            "choices": choices,
            "usage": _usage(answers, how),
        }
        return json_reply(body, headers={"Cache-Status": self._cache_status(how, answers[0])})

    def _streamed(
        self,
        head: dict[str, str],
        asked: Asked,
        dialect: Dialect,
        heard: list[Listener],
        how: CacheResult,
        status: str,
        arrived: float,
    ) -> Response:
        base = {**head, "object": dialect.piece, "created": int(time.time())}
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
                yield b"data: [DONE]\n\n"
                if how != "hit":
                    self._count(how, arrived)
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

        headers = {**_NO_BUFFER, "Cache-Status": status}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    # ---- names ----------------------------------------------------------------------------------

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((MODEL, self._chats.model.model_id)))

    def _known(self, name: str) -> str:
        if name not in self._names():
            raise Problem(
                404,
                f"there is no model {name[:100]!r}; there is {' and '.join(self._names())}",
                errors=[("model", "unknown")],
            )
        return name

    def _model(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "blatam-kv"}

    # ---- what is told of it ---------------------------------------------------------------------

    def _count(self, how: CacheResult, arrived: float) -> None:
        self._metrics.cache_request(how, tier="memory" if how == "hit" else "none")
        self._metrics.answered(time.perf_counter() - arrived)

    def _cache_status(self, how: CacheResult, answer: Answer | None) -> str:
        """RFC 9211."""
        if how != "hit":
            return f"blatam-kv; fwd=miss{'; collapsed' if how == 'collapsed' else ''}"
        if self._ttl is None or answer is None:
            return "blatam-kv; hit"
        return f"blatam-kv; hit; ttl={max(0, int(answer.born + self._ttl - time.time()))}"


def _wanted(payload: object, kind: type[ChatRequest] | type[CompletionRequest]) -> Chat:
    try:
        return Wanted(parse(payload, kind), orders)
    except RequestRejected as error:
        fields = [(problem.field, problem.detail) for problem in error.problems]
        raise Problem(400, str(error), errors=fields) from None


def _wishes(request: Request, asked: Asked) -> tuple[bool, bool]:
    """Whether to look into the cache, and whether to keep the answer (RFC 9111, and LiteLLM's)."""
    header = request.headers.get("cache-control", "")
    words = {word.strip().lower() for word in header.split(",")} if header else set()
    look = not asked.cache.no_cache and "no-cache" not in words and "no-store" not in words
    return look and not asked.cache.no_store, not asked.cache.no_store and "no-store" not in words


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


def _close(heard: Sequence[Listener]) -> None:
    for listener in heard:
        listener.close()
