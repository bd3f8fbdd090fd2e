"""Trains ``mini`` on two CPU cores and writes ``mini.safetensors``.

    python training/train.py                 the shipped run
    python training/train.py --check         the same, then compare with the shipped held-out loss
    python training/train.py --steps 200     a short one, to see it learn

Everything is counted in steps and drawn from seeds, never from the clock, so a run can be
repeated. Hidden matrices are trained by Muon (Jordan et al. 2024), embeddings and norms by AdamW;
the rate warms up, stays, and falls linearly to zero. One row is one conversation; only the tokens
of the answer are learnt. In the last part some conversations follow a long briefing, so that
positions up to the context limit have been seen. A second, shorter stage teaches copying of names
made of any tokens: without it, subjects of ordinary words were copied in 67 % of unseen requests,
with it in 91 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random

import corpus
import names
import torch
from bpe import learn_merges
from circuit import plant
from model import Network
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from blatam_kv.truthgpt.tokenizer import SPECIALS, Tokenizer
from blatam_kv.truthgpt.weights import FORMAT, Shape, seal

SHIPPED = Path(__file__).parents[1] / "python/blatam_kv/truthgpt/mini.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One training run. The defaults are the run that made the shipped weights."""

    shape: Shape = field(default_factory=Shape)
    seed: int = 7
    steps: int = 2000
    broaden: int = 600
    broaden_rate: float = 1.5e-3
    rows: int = 6
    group: int = 16
    rate: float = 3e-3
    warmup: int = 100
    decay_from: float = 0.4
    weight_decay: float = 0.05
    drill_until: float = 0.15
    drill_every: int = 8
    long_from: float = 0.6
    long_every: int = 8
    tokenizer_examples: int = 3000
    held_out_examples: int = 128


Row = tuple[list[int], int]


def learn_tokenizer(config: Config) -> tuple[Tokenizer, list[tuple[int, int]]]:
    """Merges from the first training examples, prompts included."""
    texts: list[str] = []
    for index in range(config.tokenizer_examples):
        one = corpus.example(corpus.TRAIN, index)
        texts += [" " + message.content for message in one.messages] + [one.document]
    merges = learn_merges(texts, config.shape.vocab - 256 - len(SPECIALS))
    if len(merges) < config.shape.vocab - 256 - len(SPECIALS):
        raise ValueError("the corpus is too small for this vocabulary")
    return Tokenizer(merges), merges


def to_row(tokenizer: Tokenizer, example: corpus.Example) -> Row:
    """Prompt, document and end as ids, and how many of them are prompt."""
    prompt = [int(t) for t in tokenizer.encode_messages(example.messages)]
    return [*prompt, *tokenizer.encode(example.document), tokenizer.end], len(prompt)


def batches(tokenizer: Tokenizer, config: Config) -> Iterator[list[Row]]:
    """Batch after batch. A group of them is sorted by length first, to waste little on padding."""
    index, step = 0, 0
    while True:
        size = config.rows * config.group
        rows = [to_row(tokenizer, corpus.example(corpus.TRAIN, index + i)) for i in range(size)]
        index += size
        rows.sort(key=lambda row: len(row[0]))
        order = list(range(config.group))
        Random(config.seed + index).shuffle(order)
        for i in order:
            step += 1
            early = step < config.drill_until * config.steps
            if step % 2 if early else step % config.drill_every == 1:
                yield drill_rows(tokenizer, config, step)
                continue
            if step > config.long_from * config.steps and step % config.long_every == 0:
                yield long_rows(tokenizer, config, step)
            else:
                yield rows[i * config.rows : (i + 1) * config.rows]


def drill_rows(tokenizer: Tokenizer, config: Config, step: int) -> list[Row]:
    """Names and subjects, listed and then said again in another order: copying, undiluted.

    Looking back for the last time the same token appeared (Olsson et al. 2022, induction heads) is
    what documents need most; met alone, it is learnt in a fraction of the steps.
    """
    rng = Random(f"drill/{config.seed}/{step}")
    rows = []
    for _ in range(2 * config.rows):
        first: list[int] = [tokenizer.bos]
        parts = []
        for _ in range(rng.randint(2, 4)):
            text = (
                names.company(rng)
                if rng.random() < 0.5
                else names.subject(rng, rng.choice(("es", "en")))
            )
            parts.append(tokenizer.encode(f" {text}"))
        for part in parts:
            first += part
        again: list[int] = []
        for _ in range(2):
            for part in rng.sample(parts, len(parts)):
                again += part
        rows.append(([*first, *again], len(first)))
    return rows


def pieces(tokenizer: Tokenizer) -> list[str]:
    """The letters of every token that has nothing else: what any word of any name is made of."""
    texts = (tokenizer.token_bytes(i).decode("utf-8", "replace") for i in range(tokenizer.end))
    return sorted({text.strip() for text in texts if text.strip().isalpha()})


def pieced(rng: Random, letters: list[str], language: str) -> tuple[str, str]:
    """A company and a subject of words put together from random tokens."""

    def word() -> str:
        return "".join(rng.choice(letters) for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))).lower()

    company = " ".join(word().capitalize() for _ in range(rng.choice((1, 2, 2, 3))))
    small = {"es": "de para en una la con y el", "en": "for of a the in with and our"}[language]
    said = [word() for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5)))]
    for i in range(len(said) - 1, 0, -1):
        if rng.random() < 0.5:
            said.insert(i, rng.choice(small.split()))
    return company, " ".join(said)


def broad_rows(tokenizer: Tokenizer, config: Config, letters: list[str], step: int) -> list[Row]:
    """Conversations whose company and subject are of any tokens at all.

    The names of the corpus leave many tokens out, and a network copies only what it has met as
    something to copy. Real names hold every token.
    """
    rng = Random(f"broad/{config.seed}/{step}")
    if step % 4 == 0:  # tokens drawn alike, said and said again: copying and nothing else
        rows = []
        for _ in range(2 * config.rows):
            spans = [
                [rng.randrange(32, tokenizer.bos) for _ in range(rng.randint(2, 10))]
                for _ in range(rng.randint(3, 7))
            ]
            first = [tokenizer.bos, *(token for span in spans for token in span)]
            again = [t for _ in range(2) for span in rng.sample(spans, len(spans)) for t in span]
            rows.append(([*first, *again], len(first)))
        return rows
    if step % 16 == 2:
        return long_rows(tokenizer, config, 50_000 + step)
    rows = []
    for i in range(config.rows):
        one = corpus.example(corpus.TRAIN, 20_000_000 + config.rows * step + i)
        if rng.random() < 0.7:
            one = corpus.renamed(one, *pieced(rng, letters, one.language))
        rows.append(to_row(tokenizer, one))
    return rows


def long_rows(tokenizer: Tokenizer, config: Config, step: int) -> list[Row]:
    """One or two conversations behind a briefing, up to the context limit."""
    rng = Random(f"long/{config.seed}/{step}")
    sections = rng.randint(2, 8)
    rows = []
    for i in range(2 if sections < 5 else 1):
        row, prompt = to_row(
            tokenizer, corpus.with_briefing(corpus.TRAIN, 10_000_000 + 2 * step + i, sections)
        )
        if len(row) <= config.shape.context:
            rows.append((row, prompt))
    return rows or [to_row(tokenizer, corpus.example(corpus.TRAIN, 10_000_000 + step))]


def tensors(rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Ids ``[rows, longest]`` padded with 0, and the mask of those that are to be predicted."""
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    learnt = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (ids, prompt) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        learnt[i, prompt : len(ids)] = True
    return tokens, learnt


def answer_loss(network: Network, rows: list[Row], *, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats over the answer tokens."""
    tokens, learnt = tensors(rows)
    hidden = network.hidden(tokens[:, :-1])[learnt[:, 1:]]
    logits = F.linear(hidden, network.embed_tokens.weight).float()
    return F.cross_entropy(logits, tokens[:, 1:][learnt[:, 1:]], reduction=reduction)


def held_out_rows(tokenizer: Tokenizer, count: int) -> list[Row]:
    """Examples of the stream that is never trained on."""
    return [to_row(tokenizer, corpus.example(corpus.HELD_OUT, i)) for i in range(count)]


@torch.no_grad()
def held_out_loss(network: Network, tokenizer: Tokenizer, count: int) -> float:
    """Nats per answer token over the held-out stream, in float32."""
    network.eval()
    rows = sorted(held_out_rows(tokenizer, count), key=lambda row: len(row[0]))
    total, tokens = 0.0, 0
    for i in range(0, len(rows), 8):
        part = rows[i : i + 8]
        total += float(answer_loss(network, part, reduction="sum"))
        tokens += sum(len(ids) - prompt for ids, prompt in part)
    network.train()
    return total / tokens


def rate_at(step: int, config: Config) -> float:
    """Share of the peak rate: warm-up, plateau, linear fall to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    start = config.decay_from * config.steps
    return min(1.0, (config.steps - step) / (config.steps - start))


def optimizers(network: Network, config: Config) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for embeddings and norms."""
    inside = [p for n, p in network.named_parameters() if p.ndim == 2 and "embed" not in n]
    outside = [p for n, p in network.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            inside,
            lr=config.rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(outside, lr=config.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def low_precision() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere float32 is faster."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def train(config: Config, out: Path, *, log: Path | None = None) -> float:
    """Run it all, write ``out`` and return the held-out loss of what was written."""
    torch.set_num_threads(2)
    torch.manual_seed(config.seed)
    tokenizer, merges = learn_tokenizer(config)
    network = Network(config.shape)
    plant(network)
    stream = batches(tokenizer, config)
    learn(network, stream, config, log=log)
    if config.broaden:
        # From the weights as a file would hold them, so that this stage can also be run alone.
        round_to_half(network)
        save(network, merges, config, 0.0, out.with_suffix(".partial"))
        broaden(network, tokenizer, config, log=log)
    return finish(network, tokenizer, merges, config, out)


def broaden(network: Network, tokenizer: Tokenizer, config: Config, *, log: Path | None) -> None:
    """The second stage: copying of anything, at a lower rate that falls from its start."""
    letters = pieces(tokenizer)
    later = replace(
        config, steps=config.broaden, rate=config.broaden_rate, warmup=20, decay_from=0.1
    )
    stream = (broad_rows(tokenizer, config, letters, step) for step in range(config.broaden))
    learn(network, stream, later, log=log)


def learn(
    network: Network, stream: Iterator[list[Row]], config: Config, *, log: Path | None
) -> None:
    """``config.steps`` steps on what the stream gives."""
    steppers = optimizers(network, config)
    started, seen, recent = time.monotonic(), 0, 0.0
    bfloat = low_precision()
    for step in range(config.steps):
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = config.rate * rate_at(step, config)
        rows = next(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat):
            loss = answer_loss(network, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        seen += sum(len(ids) for ids, _ in rows)
        recent += float(loss.detach())
        if (step + 1) % 25 == 0:
            report(log, step=step + 1, loss=recent / 25, tokens=seen, since=started)
            recent = 0.0


def round_to_half(network: Network) -> None:
    """The weights as they are shipped."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())


def report(log: Path | None, *, step: int, loss: float, tokens: int, since: float) -> None:
    """One line of progress, printed and appended to ``log``."""
    seconds = time.monotonic() - since
    line = f"step {step} loss {loss:.4f} tokens {tokens} seconds {seconds:.0f}"
    print(line, flush=True)
    if log is not None:
        with log.open("a") as file:
            file.write(line + "\n")


def save(
    network: Network, merges: list[tuple[int, int]], config: Config, loss: float, out: Path
) -> None:
    """Weights in fp16 with everything a reader needs in the metadata."""
    weights = {
        f"model.{name}": parameter.detach().half().contiguous()
        for name, parameter in network.named_parameters()
    }
    run = {key: value for key, value in asdict(config).items() if key != "shape"}
    metadata = {
        "format": FORMAT,
        "shape": json.dumps(asdict(config.shape)),
        "merges": json.dumps(merges, separators=(",", ":")),
        "training": json.dumps(run),
        "corpus_version": str(corpus.VERSION),
        "held_out_loss": f"{loss:.5f}",
    }
    metadata["seal"] = seal({name: tensor.numpy() for name, tensor in weights.items()}, metadata)
    save_file(weights, out, metadata=metadata)


def finish(
    network: Network,
    tokenizer: Tokenizer,
    merges: list[tuple[int, int]],
    config: Config,
    out: Path,
) -> float:
    """Round to fp16, measure that, and write the file."""
    round_to_half(network)
    loss = held_out_loss(network, tokenizer, config.held_out_examples)
    save(network, merges, config, loss, out)
    return loss


def shipped_loss(path: Path = SHIPPED) -> float:
    """The held-out loss that the shipped file states."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return float(file.metadata()["held_out_loss"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train mini, the embedded language model.")
    parser.add_argument("--steps", type=int, help="fewer steps than the shipped run")
    parser.add_argument("--out", type=Path, help=f"where to write (default {SHIPPED.name} here)")
    parser.add_argument("--log", type=Path, help="append progress lines to this file")
    parser.add_argument("--check", action="store_true", help="fail if worse than shipped by 3 %%")
    options = parser.parse_args(arguments)
    config = Config()
    if options.steps:
        config = replace(config, steps=options.steps)
    out = options.out or Path("mini.safetensors")
    loss = train(config, out, log=options.log)
    print(f"held-out loss {loss:.4f} nats a token, written to {out}")
    if options.check:
        target = shipped_loss()
        print(f"shipped {target:.4f}, ratio {loss / target:.4f}, limit 1.03")
        return 0 if loss <= 1.03 * target else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
