"""How mini came to be can be repeated: the corpus, the tokenizer, and a training run in small."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blatam_kv.truthgpt.mini import Mini
from blatam_kv.truthgpt.protocol import Message, Sampling
from blatam_kv.truthgpt.tokenizer import Tokenizer
from blatam_kv.truthgpt.weights import Shape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

import corpus
import train
from bpe import learn_merges
from circuit import plant
from model import Network

SMALL = train.Config(
    shape=Shape(vocab=500, width=256, layers=2, heads=4, kv_heads=2, hidden=64),
    steps=20,
    rows=2,
    group=4,
    warmup=4,
    drill_until=0.2,
    long_from=0.5,
    tokenizer_examples=40,
    held_out_examples=2,
    broaden=4,
)


# ---- corpus and tokenizer -----------------------------------------------------------------------


def test_an_example_is_always_the_same() -> None:
    assert corpus.example(corpus.TRAIN, 5) == corpus.example(corpus.TRAIN, 5)
    assert corpus.example(corpus.TRAIN, 5) != corpus.example(corpus.TRAIN, 6)
    assert corpus.example(corpus.HELD_OUT, 5) != corpus.example(corpus.TRAIN, 5)


def test_held_out_companies_and_subjects_are_not_those_of_training() -> None:
    seen = [corpus.example(corpus.TRAIN, index) for index in range(3000)]
    new = [corpus.example(corpus.HELD_OUT, index) for index in range(300)]
    for known, asked in (
        ({one.company for one in seen}, [one.company for one in new if one.company]),
        ({one.subject for one in seen}, [one.subject for one in new]),
    ):
        assert sum(name in known for name in asked) < 0.05 * len(asked)


def test_the_answer_is_about_what_the_prompt_asks() -> None:
    for index in range(200):
        one = corpus.example(corpus.TRAIN, index)
        prompt = "\n".join(message.content for message in one.messages)
        assert one.company in prompt
        assert one.subject.casefold() in prompt.casefold()
        assert one.subject in one.document


def test_merges_are_the_most_frequent_pairs_first() -> None:
    merges = learn_merges(["abab abab abab cb"], 9)
    a, b, space = b"ab "
    assert merges == [(a, b), (256, 256), (space, 257)]


def test_shipped_tokenizer_is_what_the_corpus_gives() -> None:
    metadata = Mini().weights.metadata
    config = train.Config()
    run = json.loads(metadata["training"])
    assert run == {key: getattr(config, key) for key in run}
    _, merges = train.learn_tokenizer(config)
    assert merges == [tuple(pair) for pair in json.loads(metadata["merges"])]


# ---- training -----------------------------------------------------------------------------------


def test_a_small_run_learns_and_its_file_loads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    log = tmp_path / "log"
    tokenizer, _ = train.learn_tokenizer(SMALL)
    network = Network(SMALL.shape)
    plant(network)
    before = train.held_out_loss(network, tokenizer, 2)
    try:
        after = train.train(SMALL, tmp_path / "m", log=log)
    finally:
        torch.set_num_threads(threads)
    assert after < before - 1
    model = Mini(weights=tmp_path / "m")
    assert float(model.weights.metadata["held_out_loss"]) == pytest.approx(after, abs=1e-4)
    answer = model.generate([Message("user", "A plan")], sampling=Sampling(max_tokens=20))
    assert answer.usage.completion_tokens > 0


def test_two_runs_draw_the_same_batches() -> None:
    tokenizer = Tokenizer([])
    config = replace(SMALL, steps=16)
    first, second = train.batches(tokenizer, config), train.batches(tokenizer, config)
    for _ in range(14):
        rows = next(first)
        assert rows == next(second)
        assert all(0 < prompt < len(ids) for ids, prompt in rows)


def test_planted_heads_copy_before_anything_is_learnt() -> None:
    torch.manual_seed(0)
    shape = Shape(layers=2)
    network = Network(shape)
    pattern = torch.randperm(2000)[:40]
    tokens = torch.cat([pattern, pattern])[None]

    def right() -> float:
        with torch.no_grad():
            guesses = network(tokens)[0, 40:-1].argmax(dim=-1)
        return float((guesses == tokens[0, 41:]).float().mean())

    assert right() < 0.05
    plant(network)
    assert right() > 0.25  # badly, as circuit.py says, but far from chance


@pytest.mark.parametrize(("loss", "status"), [(0.19, 0), (0.2059, 0), (0.2061, 1)])
def test_check_allows_three_per_cent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loss: float, status: int
) -> None:
    monkeypatch.setattr(train, "train", lambda *_, **__: loss)
    monkeypatch.setattr(train, "shipped_loss", lambda: 0.2)
    assert train.main(["--check", "--out", str(tmp_path / "m")]) == status


def test_shipped_loss_is_read_from_the_shipped_file() -> None:
    assert train.shipped_loss() == float(Mini().weights.metadata["held_out_loss"])
