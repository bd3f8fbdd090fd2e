"""Documents written section by section: in order, each from all before it, cut ones gone on with."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from bul_fakes import Scripted
from server_browser import browsing

from blatam_kv.bul import order as orders
from blatam_kv.bul.drafts import LEAST_SECTION_TOKENS, Part, Stopped
from blatam_kv.bul.order import place
from blatam_kv.bul.pipeline import Answer, Pipeline
from blatam_kv.bul.request import parse_request
from blatam_kv.cache import Cache
from blatam_kv.documents.templates import TEMPLATES, template
from blatam_kv.errors import InvalidRequest, ModelError
from blatam_kv.truthgpt.brief import AREAS, DOCUMENT_TYPES
from blatam_kv.truthgpt.protocol import Chunk, Message, Sampling, Usage


class Sectioned(Scripted):
    """A model that goes on: under each heading it writes one sentence, or what ``bodies`` says. A
    token is a word. cuts: how many words an answer has at most, whatever was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.bodies: dict[str, str] = {}
        self.cuts = 10_000
        self.title = "# The title\n"

    def resume(
        self, messages: Sequence[Message], begun: str, *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        self.begun.append(begun)
        self.samplings.append(sampling)
        heading, _, said = begun.rpartition("## ")[2].partition("\n\n")
        whole = self.bodies.get(heading, f"About {heading}.") if begun else self.title
        words = [word + " " for word in whole[len(said) :].split(" ")]
        words[-1] = words[-1][:-1]
        limit = min(self.cuts, sampling.max_tokens)
        for count, word in enumerate(words[:limit]):
            if count == 1:
                self.writing.set()
                if self.gate is not None:
                    assert self.gate.wait(30)
            yield Chunk(word)
        reason = "length" if len(words) > limit else "stop"
        yield Chunk("", reason, Usage(10, min(limit, len(words)), 4))  # type: ignore[arg-type]


def write(model: Sectioned, **fields: Any) -> Answer:
    request = parse_request({"query": "bread", "outline": ["One", "Two", "Three"], **fields})
    parts: list[Part] = fields.get("parts", [])
    pipeline: Pipeline = Pipeline(model, Cache(capacity=10))
    answer, wrote = pipeline.write(place(request, model), turn=parts.append)
    assert wrote
    return answer


def test_every_section_of_the_outline_is_written_in_order() -> None:
    answer = write(Sectioned())
    assert answer.text == (
        "# The title\n\n## One\n\nAbout One.\n\n## Two\n\nAbout Two.\n\n## Three\n\nAbout Three."
    )
    assert (answer.title, answer.finish_reason) == ("The title", "stop")


def test_each_prompt_is_the_one_before_and_its_answer() -> None:
    model = Sectioned()
    write(model)
    assert model.begun[:2] == ["", "# The title\n\n## One\n\n"]
    for before, after in zip(model.begun, model.begun[1:], strict=False):
        assert after.startswith(before)


def test_what_all_calls_took_is_added_up() -> None:
    assert write(Sectioned()).usage == Usage(40, 3 + 2 * 3, 16)


def test_every_call_draws_differently_and_the_same_request_the_same() -> None:
    first, second = Sectioned(), Sectioned()
    assert write(first).text == write(second).text
    seeds = [sampling.seed for sampling in first.samplings]
    assert seeds == [sampling.seed for sampling in second.samplings]
    assert len(set(seeds)) == 4


@pytest.mark.parametrize("cuts", [2, 3, 7])
def test_a_section_that_was_cut_off_is_gone_on_with(cuts: int) -> None:
    model = Sectioned()
    model.title = "# T"
    model.bodies["Two"] = "One two three. Four five six. Seven eight nine."
    model.cuts = cuts
    answer = write(model)
    assert "## Two\n\nOne two three. Four five six. Seven eight nine.\n\n## Three" in answer.text
    assert answer.finish_reason == "stop"


def test_a_section_longer_than_its_room_ends_with_a_whole_sentence() -> None:
    model = Sectioned()
    model.bodies["One"] = "It goes on. " * 500
    answer = write(model, max_length=400)
    one = answer.text.split("## One")[1].split("## Two")[0]
    assert one.rstrip().endswith("It goes on.")
    assert 150 < len(one.split()) < 400 - 2 * LEAST_SECTION_TOKENS
    assert "About Three." in answer.text
    assert answer.finish_reason == "length"


def test_little_room_makes_fewer_sections_and_says_so() -> None:
    answer = write(Sectioned(), max_length=100)
    assert "## One" in answer.text
    assert "## Two" not in answer.text
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("said", ["## Two\n\nBody.", "Two\nBody.", "# two\n\nBody."])
def test_a_heading_that_the_model_repeats_is_there_once(said: str) -> None:
    model = Sectioned()
    model.bodies["Two"] = said
    assert "## Two\n\nBody.\n\n## Three" in write(model).text


def test_a_section_without_a_word_leaves_no_heading() -> None:
    model = Sectioned()
    model.bodies["Two"] = " "
    assert "## Two" not in write(model).text


def test_without_a_title_of_its_own_a_document_is_called_by_its_query() -> None:
    model = Sectioned()
    model.title = "\n"
    assert write(model).title == "bread"


def test_a_context_that_fills_up_ends_the_document_there() -> None:
    class Full(Sectioned):
        def resume(self, *arguments: Any, **options: Any) -> Iterator[Chunk]:
            if len(self.begun) == 3:
                raise InvalidRequest("too long", field="messages")
            return super().resume(*arguments, **options)

    answer = write(Full())
    assert "About Two." in answer.text
    assert answer.finish_reason == "length"


def test_a_section_that_breaks_off_fails_the_answer() -> None:
    class Broken(Sectioned):
        def resume(self, *arguments: Any, **options: Any) -> Iterator[Chunk]:
            yield Chunk("x")

    with pytest.raises(ModelError, match="broke off"):
        write(Broken())


def test_a_stop_is_heard_inside_a_section() -> None:
    model, stop = Sectioned(), threading.Event()
    pipeline: Pipeline = Pipeline(model, Cache(capacity=10))
    order = place(parse_request({"query": "bread"}), model)
    with pytest.raises(Stopped):
        pipeline.write(order, turn=lambda part: stop.set() if part.number == 2 else None, stop=stop)


# The outline, and the key of the answer.


@pytest.mark.parametrize("language", ["es", "en"])
def test_every_type_has_a_template_in_both_languages(language: str) -> None:
    assert set(TEMPLATES[language]) == set(DOCUMENT_TYPES)
    for kind in DOCUMENT_TYPES:
        sections = template(kind, language).sections
        assert 6 <= len(sections) == len(set(sections)) <= 7


def test_areas_have_names_in_both_languages() -> None:
    from blatam_kv.documents.templates import AREAS as named

    assert set(named["es"]) == set(named["en"]) == set(AREAS)


def test_the_outline_is_that_of_the_type_or_the_one_asked_for() -> None:
    model = Sectioned()
    usual = place(parse_request({"query": "x", "document_type": "hr_policy"}), model)
    assert usual.outline == template("hr_policy", "es").sections
    own = place(parse_request({"query": "x", "outline": ["# A ", "B"]}), model)
    assert own.outline == ("A", "B")
    free = place(parse_request({"query": "x", "outline": []}), model)
    assert free.outline == ()
    assert place(parse_request({"query": "x"}), Scripted()).outline == ()


def test_an_answer_is_known_by_its_outline_and_by_the_version_of_templates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Sectioned()

    def digest(**fields: Any) -> bytes:
        return place(parse_request({"query": "x", **fields}), model).digest

    kinds = {digest(), digest(outline=[]), digest(outline=["A"]), digest(outline=["B"])}
    assert len(kinds) == 4
    before = digest()
    monkeypatch.setattr(orders, "VERSION", 10_000)
    assert digest() != before
    assert digest(outline=[]) in kinds


# What a caller sees.


def test_a_status_names_the_section_that_is_being_written() -> None:
    model = Sectioned()
    model.gate = threading.Event()
    model.title = "#"  # one word, so that the gate is first met in a section
    with browsing(model, max_concurrent_tasks=1) as browser:
        asked = browser.ask(query="Plan de negocio para una panadería")
        assert model.writing.wait(30)
        status = browser.get(asked.json()["links"]["status"]).json()
        assert status["section"] == {"number": 1, "of": 7, "heading": "Resumen ejecutivo"}
        assert status["status"] == "processing"
        model.gate.set()
        done = browser.finished(asked.json()["task_id"])
        assert "section" not in done
        text = browser.get(f"/task/{done['task_id']}/documents").json()["documents"][0]["content"]
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {heading}" for heading in template("business_plan", "es").sections
    ]
