"""How an answer comes out of the model: in one piece, or section by section.

A model that can go on from a beginning (``Continues``) writes a document along its outline. First it
writes the title; then each heading is put under what there is, and it writes what belongs there.
Every prompt is the one before and its answer, so nearly all of it is a prefix whose keys and values
are there already. A section that is cut off is gone on with as long as there is room.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from blatam_kv.bul.order import Order
from blatam_kv.bul.sanitise import clean
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.truthgpt.protocol import (
    Chunk,
    Continues,
    FinishReason,
    Message,
    TruthGPT,
    Usage,
)

# One call asks for no more: what is longer is gone on with, and can be stopped in between.
CALL_TOKENS = 512
TITLE_TOKENS = 64
# What each section that is still to be written may count on.
LEAST_SECTION_TOKENS = 96
# What a model may put around each call, in words: a request to go on.
_ASKING = "word " * 48
# Where a section ends if the model begins the next one by itself.
_NEXT = ("\n# ", "\n## ")
_END = re.compile(r"(?<=[.!?:…])(?=\s)|\n")


class Stopped(ModelError):
    """The service stopped while the model was writing."""


@dataclass(frozen=True, slots=True)
class Part:
    """The section that is being written: its number, of how many, and its heading."""

    number: int
    of: int
    heading: str


Progress = Callable[[float], None]
Turn = Callable[[Part], None]


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model wrote, and what it took: several calls are counted together."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    first_text: float | None  # seconds until the first piece


class Writer:
    """One answer's way out of the model. For one thread, once.

    room: tokens that prompt and answer leave. progress: told the share written, 0 to 1; turn: told
    of each section when it begins. check: called at each piece; what it raises ends the writing.
    """

    def __init__(
        self,
        model: TruthGPT,
        order: Order,
        room: int,
        *,
        progress: Progress,
        turn: Turn,
        check: Callable[[], None],
    ) -> None:
        self._model = model
        self._order = order
        self._room = room
        self._progress, self._turn = progress, turn
        self._check = check
        self._began = time.perf_counter()
        self._first_text: float | None = None
        self._usage = Usage(0, 0, 0)
        self._calls = 0
        self._cut = False

    def write(self) -> Draft:
        """The whole answer. Raises ModelError for one that is empty or broke off."""
        if self._order.outline and isinstance(self._model, Continues):
            text = self._sections(self._model)
        else:
            text = self._whole()
        if not text:
            raise ModelError(f"{self._model.model_id} returned an empty answer")
        reason: FinishReason = "length" if self._cut else "stop"
        return Draft(text, reason, self._usage, self._first_text)

    def _whole(self) -> str:
        order = self._order
        sampling = replace(order.sampling, max_tokens=self._room)
        pieces: list[str] = []
        for text in self._read(
            self._model.stream(order.messages, sampling=sampling, salt=order.salt)
        ):
            pieces.append(text)
            self._progress(min(len(pieces) / self._room, 0.99))
        return clean("".join(pieces))

    # Section by section.

    def _sections(self, model: Continues) -> str:
        # Headings, and what is said around each call, are read but not written by the model.
        told = Message("assistant", "\n\n".join([*self._order.outline, _ASKING]))
        taken = self._model.count_tokens([*self._order.messages, told])
        self._room = min(self._room, max(LEAST_SECTION_TOKENS, self._model.context_tokens - taken))
        headings = self._fitting()
        title = self._title(model)
        written = f"# {title}\n\n"
        for at, heading in enumerate(headings):
            self._turn(Part(at + 1, len(headings), heading))
            start = f"{written}## {heading}\n\n"
            left = len(headings) - at - 1
            allowed = self._left() - left * LEAST_SECTION_TOKENS
            body = self._section(model, start, heading, allowed, (at, len(headings)))
            if body:
                written = f"{start}{body}\n\n"
            self._progress(min((at + 1) / len(headings), 0.99))
        return written.strip()

    def _fitting(self) -> Sequence[str]:
        """As many headings, from the first, as there is room to write under."""
        outline = self._order.outline
        fit = max(1, (self._room - TITLE_TOKENS) // LEAST_SECTION_TOKENS)
        self._cut = fit < len(outline)
        return outline[:fit]

    def _left(self) -> int:
        return self._room - self._usage.completion_tokens

    def _title(self, model: Continues) -> str:
        limit = min(TITLE_TOKENS, max(8, self._room // 2))
        text, _ = self._call(model, "", limit, stop=("\n",))
        usual = " ".join(self._order.brief.query.split())[:80]
        return " ".join(clean(text).lstrip("# ").split()) or usual

    def _section(
        self, model: Continues, start: str, heading: str, allowed: int, place: tuple[int, int]
    ) -> str:
        """What stands under a heading; without a heading of its own level."""
        at, of = place
        body = ""
        spent = self._usage.completion_tokens
        while (more := allowed - (self._usage.completion_tokens - spent)) > 0:
            share = at / of

            def told(tokens: int, share: float = share) -> None:
                self._progress(min(share + tokens / max(1, allowed) / of, 0.99))

            asked = min(CALL_TOKENS, more)
            try:
                text, reason = self._call(model, start + body, asked, stop=_NEXT, told=told)
            except InvalidRequest:
                if at == 0:
                    raise
                break  # what is written fills the model's context
            body += text if body else text.lstrip()
            if reason == "stop" or not text.strip():
                return _without_heading(clean(body), heading)
        self._cut = True
        return _ended(_without_heading(clean(body), heading))

    def _call(
        self,
        model: Continues,
        begun: str,
        tokens: int,
        *,
        stop: tuple[str, ...],
        told: Callable[[int], None] = lambda tokens: None,
    ) -> tuple[str, FinishReason]:
        order = self._order
        self._calls += 1
        sampling = replace(
            order.sampling,
            max_tokens=tokens,
            stop=stop,
            # Another draw for each call, the same ones for the same request.
            seed=(order.sampling.seed + self._calls) % 2**64,
        )
        pieces: list[str] = []
        reasons: list[FinishReason] = []
        answer = model.resume(order.messages, begun, sampling=sampling, salt=order.salt)
        for text in self._read(answer, reasons):
            pieces.append(text)
            told(len(pieces))
        return "".join(pieces), reasons[0]

    # One call.

    def _read(
        self, answer: Iterator[Chunk], reasons: list[FinishReason] | None = None
    ) -> Iterator[str]:
        """The texts of one answer; what it cost is added up."""
        last: Chunk | None = None
        for last in answer:
            self._check()
            if self._first_text is None:
                self._first_text = time.perf_counter() - self._began
            yield last.text
        if last is None or last.finish_reason is None or last.usage is None:
            raise ModelError(f"{self._model.model_id} broke off in the middle of the answer")
        before, more = self._usage, last.usage
        self._usage = Usage(
            before.prompt_tokens + more.prompt_tokens,
            before.completion_tokens + more.completion_tokens,
            before.cached_tokens + more.cached_tokens,
        )
        if reasons is None:
            self._cut = last.finish_reason == "length"
        else:
            reasons.append(last.finish_reason)


def _without_heading(text: str, heading: str) -> str:
    """The text without the heading that a model may repeat before it."""
    first, _, rest = text.partition("\n")
    if first.lstrip("# ").strip().casefold() == heading.casefold():
        return rest.strip()
    return text


def _ended(text: str) -> str:
    """A text that was cut off, up to its last whole sentence or line."""
    ends = [found.start() for found in _END.finditer(text)]
    return text[: ends[-1]].rstrip() if ends else text
