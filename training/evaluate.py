"""Measures ``mini`` as docs/MINI.md reports it. numpy only; a few minutes on one core.

    python training/evaluate.py                     the shipped weights
    python training/evaluate.py --weights FILE --json

Held-out loss and perplexity, beside a 5-gram model of the same training examples; how often the
company, the subject and the language of a hundred unseen requests are met; milliseconds a token.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import corpus
import numpy as np
from ngram import NGram, Row
from unseen import Request, requests

from blatam_kv.truthgpt.decoder import Decoder
from blatam_kv.truthgpt.mini import WEIGHTS, Mini
from blatam_kv.truthgpt.protocol import Sampling
from blatam_kv.truthgpt.tokenizer import Tokenizer
from blatam_kv.truthgpt.weights import Weights

# Words of one language that the other has not, and that no page is without.
COMMON = {
    "es": frozenset("de la el en y que los las del para con una se por su es al como".split()),
    "en": frozenset("the of and to in for is with on are will by this that at from it be".split()),
}


def to_row(tokenizer: Tokenizer, example: corpus.Example) -> Row:
    """Prompt, document and end as ids, and how many of them are prompt."""
    prompt = tokenizer.encode_messages(example.messages).tolist()
    return [*prompt, *tokenizer.encode(example.document), tokenizer.end], len(prompt)


def rows_of(tokenizer: Tokenizer, stream: int, count: int) -> list[Row]:
    """The first examples of a stream."""
    return [to_row(tokenizer, corpus.example(stream, index)) for index in range(count)]


def mini_loss(weights: Weights, rows: Sequence[Row]) -> float:
    """Nats per answer token, by the inference code that ships."""
    decoder = Decoder(weights)
    total, tokens = 0.0, 0
    for ids, prompt in rows:
        logits = decoder.all_logits(np.array(ids[:-1], np.int32))[prompt - 1 :].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        whole = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        chosen = logits[np.arange(len(logits)), ids[prompt:]]
        total += float((whole - chosen).sum())
        tokens += len(chosen)
    return total / tokens


def examples_seen(weights: Weights) -> int:
    """Training examples that the run drew, an upper bound of what it learnt from."""
    run = json.loads(weights.metadata["training"])
    return int(run["steps"]) * int(run["rows"])


@dataclass(frozen=True, slots=True)
class Answer:
    """A document for one of the unseen requests, and what of the request is in it."""

    request: Request
    text: str

    @property
    def names_company(self) -> bool:
        return self.request.company in self.text

    @property
    def names_subject(self) -> bool:
        return self.request.subject.casefold() in self.text.casefold()

    @property
    def body(self) -> str:
        """The text below the title, without company and subject: what else there is to say."""
        below = self.text.partition("\n")[2]
        for name in (self.request.company, self.request.subject):
            below = re.sub(re.escape(name), "…", below, flags=re.IGNORECASE)
        return below

    @property
    def in_language(self) -> bool:
        """Whether the common words of the language asked for are the more frequent ones."""
        words = re.findall(r"\w+", self.body.lower())
        asked = self.request.language
        other = "en" if asked == "es" else "es"
        return sum(w in COMMON[asked] for w in words) > sum(w in COMMON[other] for w in words)


def answers(model: Mini, sampling: Sampling, *, threads: int = 1) -> list[Answer]:
    """A document for each of the unseen requests, each with a seed of its own, as BUL gives it."""

    def answer(number: int, request: Request) -> Answer:
        own = replace(sampling, seed=sampling.seed + number)
        return Answer(request, model.generate(request.messages, sampling=own).text)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(answer, count(), requests()))


def share(found: Sequence[bool]) -> float:
    """The share of what is true."""
    return sum(found) / len(found)


def milliseconds_per_token(model: Mini, *, tokens: int = 200, rounds: int = 5) -> float:
    """Median over ``rounds`` of the time of a decoded token, the prompt's not counted."""
    messages, times = requests()[0].messages, []
    for round_ in range(rounds):
        stream = model.stream(messages, sampling=Sampling(max_tokens=tokens, seed=round_))
        next(stream)
        started, usage = time.perf_counter(), None
        for chunk in stream:
            usage = chunk.usage or usage
        assert usage is not None
        times.append((time.perf_counter() - started) / (usage.completion_tokens - 1))
    return 1000 * statistics.median(times)


def measure(path: Path, sampling: Sampling, *, held_out: int, threads: int) -> dict[str, object]:
    """All figures of the model card."""
    model = Mini(weights=path)
    weights = model.weights
    rows = rows_of(weights.tokenizer, corpus.HELD_OUT, held_out)
    loss = mini_loss(weights, rows)
    seen = examples_seen(weights)
    yardstick = NGram(rows_of(weights.tokenizer, corpus.TRAIN, seen), vocab=weights.shape.vocab)
    ngram = yardstick.loss(rows)
    speed = milliseconds_per_token(model)
    found = answers(model, sampling, threads=threads)
    return {
        "parameters": weights.parameters,
        "held-out documents": held_out,
        "held-out loss, nats a token": round(loss, 4),
        "perplexity": round(float(np.exp(loss)), 3),
        "training examples of the 5-gram model": seen,
        "5-gram perplexity": round(float(np.exp(ngram)), 3),
        "unseen requests": len(found),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "tokens at most": sampling.max_tokens,
        "company named": share([a.names_company for a in found]),
        "subject named": share([a.names_subject for a in found]),
        "both named": share([a.names_company and a.names_subject for a in found]),
        "language right": share([a.in_language for a in found]),
        "different bodies": len({a.body for a in found}),
        "milliseconds a token": round(speed, 2),
    }


def main(arguments: list[str] | None = None) -> int:
    usual = Sampling()
    parser = argparse.ArgumentParser(description="Measure mini, the embedded language model.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="default: the shipped file")
    parser.add_argument("--held-out", type=int, default=128, help="documents (default 128)")
    parser.add_argument("--max-tokens", type=int, default=usual.max_tokens)
    parser.add_argument("--temperature", type=float, default=usual.temperature)
    parser.add_argument("--top-p", type=float, default=usual.top_p)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    sampling = Sampling(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    figures = measure(options.weights, sampling, held_out=options.held_out, threads=options.threads)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:40} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
