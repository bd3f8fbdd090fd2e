"""Language models for the tests of BUL: tiny, deterministic, and watched.

``Scripted`` writes one fixed Markdown per query and counts. Hooks make it wait, fail or break off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.service import Service
from blatam_kv.bul.storage import StorageUnavailable, open_storage
from blatam_kv.bul.tasks import Task
from blatam_kv.config import Settings
from blatam_kv.errors import ModelError
from blatam_kv.truthgpt.brief import Brief
from blatam_kv.truthgpt.protocol import Chunk, Completion, Message, Sampling, Usage

VERSION = "9.9.9"


class Scripted:
    """A model whose answer follows from the query. Set the attributes to change what it does."""

    model_id = "scripted"

    def __init__(self) -> None:
        self.fingerprint = "f1"
        self.context_tokens = 4096
        self.calls: list[str] = []
        self.samplings: list[Sampling] = []
        self.salts: list[bytes] = []
        self.gate: threading.Event | None = None  # wait for it before the second piece
        self.writing = threading.Event()  # set when an answer has begun
        self.error: Exception | None = None  # raised in the middle of the answer
        self.text: str | None = None  # instead of the usual answer
        self.finish = True  # False: the stream ends without its last piece
        self.fails = 0  # so many answers break off, then none

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content) // 4 + 1 for message in messages)

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        query = messages[-1].content
        self.calls.append(query)
        self.samplings.append(sampling)
        self.salts.append(salt)
        text = self.text
        if text is None:
            text = f"# Document\n\nAbout {query}, seed {sampling.seed}.\n\n## Detail\n\n- one\n"
        yield Chunk(text[: len(text) // 2])
        self.writing.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        if self.fails > 0:
            self.fails -= 1
            raise ModelError("broke off")
        yield Chunk(text[len(text) // 2 :])
        if self.finish:
            yield Chunk("", "stop", Usage(self.count_tokens(messages), 7))

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        text = "".join(chunk.text for chunk in self.stream(messages, sampling=sampling))
        return Completion(text, "stop", Usage(self.count_tokens(messages), 7))


class Faulty:
    """An archive that fails while ``broken``, and counts the calls that write or read."""

    def __init__(self, url: str = "sqlite://") -> None:
        self.archive = open_storage(url)
        self.broken = False
        self.calls: list[str] = []

    @property
    def well(self) -> bool:
        return not self.broken

    @property
    def shared(self) -> bool:
        return bool(self.archive.shared)

    def __getattr__(self, name: str) -> Any:  # Any: whatever the archive has by that name
        found = getattr(self.archive, name)
        return self.watched(found, name) if callable(found) else _Part(self, found)

    def watched(self, method: Any, name: str) -> Any:
        if name == "close":
            return method
        if not callable(method) and name != "well":
            return _Part(self, method)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.broken:
                raise StorageUnavailable("the database is away")
            return method(*arguments, **options)

        return call


class _Part:
    """What else is kept in the database, failing with it."""

    def __init__(self, faulty: Faulty, part: Any) -> None:
        self._faulty, self._part = faulty, part

    def __getattr__(self, name: str) -> Any:
        return self._faulty.watched(getattr(self._part, name), name)


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def running(
    model: Scripted,
    *,
    archive: Any = None,
    redis: Any = None,
    resumed: Any = None,
    **settings: Any,
) -> Iterator[Service]:
    """A service with this model and these settings, closed at the end. It retries nothing, and keeps
    answers in memory unless the settings name a folder of the test's own."""
    options = {"retry_attempts": 0, "cache_persistence": "data_dir" in settings} | settings
    service = Service(
        model,
        replace(Settings(), **options),
        version=VERSION,
        redis=redis,
        archive=archive,
        resumed=resumed,
    )
    try:
        yield service
    finally:
        if model.gate is not None:
            model.gate.set()
        service.close(seconds=10.0)


def asked_task(
    query: str,
    *,
    tenant: str = "local",
    area: str = "strategy",
    format: str = "markdown",
    **fields: Any,
) -> Task:
    """A task that has just begun."""
    request = parse_request({"query": query or "nothing", "format": format})
    return Task(
        tenant=tenant,
        brief=Brief(query=query, business_area=area),
        inferred=fields.pop("inferred", ()),
        format=format,
        priority=1,
        cache="miss",
        request=request,
        **fields,
    )


def finished_task(
    begun: Task,
    *,
    text: str = "text",
    title: str = "Title",
    answer: Answer | None = None,
    **fields: Any,
) -> Task:
    """The same task, completed a second after it began."""
    answer = answer or Answer(
        title=title,
        text=text,
        finish_reason="stop",
        usage=Usage(5, 7, 1),
        seconds=0.25,
        seconds_to_first_text=0.125,
        born=begun.created + 1,
        model="scripted",
    )
    return replace(
        begun,
        status="completed",
        progress=1.0,
        answer=answer,
        stored=True,
        finished=begun.created + 1,
        tries=1,
        **fields,
    )
