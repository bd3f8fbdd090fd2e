"""What the shipped weights can do: better than a 5-gram model, and about what was asked for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from blatam_kv.truthgpt.mini import Mini
from blatam_kv.truthgpt.protocol import Sampling

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

import corpus
import names
from evaluate import Answer, answers, examples_seen, mini_loss, rows_of, share
from ngram import NGram, Row, events
from unseen import COMPANIES, SUBJECTS, requests

HELD_OUT_DOCUMENTS = 128


@pytest.fixture(scope="module")
def model() -> Mini:
    return Mini()


# ---- perplexity ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out(model: Mini) -> list[Row]:
    return rows_of(model.weights.tokenizer, corpus.HELD_OUT, HELD_OUT_DOCUMENTS)


@pytest.fixture(scope="module")
def loss(model: Mini, held_out: list[Row]) -> float:
    return mini_loss(model.weights, held_out)


def test_held_out_loss_is_the_one_the_file_states(model: Mini, loss: float) -> None:
    assert loss == pytest.approx(float(model.weights.metadata["held_out_loss"]), rel=1e-3)


def test_held_out_text_surprises_mini_less_than_a_5_gram_model(
    model: Mini, held_out: list[Row], loss: float
) -> None:
    seen = rows_of(model.weights.tokenizer, corpus.TRAIN, examples_seen(model.weights))
    assert loss < NGram(seen, vocab=model.weights.shape.vocab).loss(held_out)


def test_5_gram_probabilities_add_up_to_one(model: Mini, held_out: list[Row]) -> None:
    vocab = model.weights.shape.vocab
    ngram = NGram(held_out[:20], vocab=vocab)
    seen_and_unseen = np.concatenate([events(held_out[:1])[:20], events(held_out[20:21])[:20]])
    for gram in seen_and_unseen:
        same_context = (gram >> 11 << 11) + np.arange(vocab)
        assert ngram.probabilities(same_context).sum() == pytest.approx(1.0)


def test_5_gram_model_knows_what_it_has_seen(held_out: list[Row], model: Mini) -> None:
    vocab = model.weights.shape.vocab
    ngram = NGram(held_out[:40], vocab=vocab)
    assert ngram.loss(held_out[:40]) < 1 < ngram.loss(held_out[40:80]) < np.log(vocab)


# ---- a hundred unseen requests ------------------------------------------------------------------


@pytest.fixture(scope="module")
def documents(model: Mini) -> list[Answer]:
    return answers(model, Sampling())


def words(texts: list[str] | tuple[str, ...]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[^\W_]+", text.casefold())}


def test_requests_are_made_of_words_the_corpus_has_not() -> None:
    lists = [names.SURNAMES, names.LEGAL]
    for table in (names.BRAND_WORDS, names.NOUNS, names.QUALITIES, names.PURPOSES, names.FRAMES):
        lists += table.values()
    known = set().union(*(words(part) for part in lists))
    joints = set("a de del el la en para y of and".split())
    for text in (*COMPANIES, *SUBJECTS["es"], *SUBJECTS["en"]):
        assert not words([text]) & known - joints, text


def test_there_are_a_hundred_different_requests() -> None:
    asked = requests()
    assert len({tuple(request.messages) for request in asked}) == 100
    assert {len([r for r in asked if r.language == code]) for code in ("es", "en")} == {50}
    for request in asked:
        prompt = "\n".join(message.content for message in request.messages)
        assert request.company in prompt
        assert request.subject in prompt


def test_company_and_subject_of_unseen_requests_are_in_the_document(
    documents: list[Answer],
) -> None:
    missed = [
        (a.request.company, a.request.subject)
        for a in documents
        if not (a.names_company and a.names_subject)
    ]
    assert len(missed) <= 20, missed


def test_documents_are_in_the_language_asked_for(documents: list[Answer]) -> None:
    assert share([answer.in_language for answer in documents]) >= 0.95


def test_no_two_requests_get_the_same_body(documents: list[Answer]) -> None:
    assert len({answer.body for answer in documents}) == 100


def test_documents_are_markdown_with_title_and_sections(documents: list[Answer]) -> None:
    formed = [a.text.startswith("# ") and a.text.count("\n## ") >= 2 for a in documents]
    assert share(formed) >= 0.95
