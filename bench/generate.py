"""Time to the first token with a cached prefix, and a decode step beside transformers' own caches.

A Llama of 125 million weights by chance (float32) and the embedded model read a prompt of 2,048 tokens and a question: all of it, from blocks in memory, and from
blocks on disk in a process that has just started (the store is opened within the time). Then a step of
decoding after 2,048 tokens, or --tokens, with each cache, whole and the cache's part alone. One thread; contenders
take turns in every round; ratios are of CPU time, which other load on the machine disturbs less, and
wall time stands beside. Answers are compared before they are timed.

The quantised peers are transformers' QuantizedCache with fp8, which needs nothing, and with quanto,
which needs `pip install --no-deps optimum-quanto`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from blatam_kv import KVLayout, KVStore
from blatam_kv.integrations.transformers import KVCache, generate, layout_of
from blatam_kv.truthgpt import Message, Sampling
from blatam_kv.truthgpt.mini import Mini

PREFIX, QUESTION = 2048, 32
VOCAB = 16_000
SEED = 1


@dataclass(frozen=True, slots=True)
class Seconds:
    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Result:
    """Medians in milliseconds; ratio is peer ÷ ours of CPU time, spread half its inter-quartile
    range."""

    what: str
    ours_ms: float
    ours_wall_ms: float
    peer: str
    peer_ms: float
    peer_wall_ms: float
    ratio: float
    spread: float
    target: str


class FirstToken:
    """A streamer that reads the clocks when the first token is there."""

    def __init__(self) -> None:
        self._begun = now()
        self._calls = 0
        self.seconds = Seconds(0, 0)

    def put(self, value: object) -> None:
        self._calls += 1
        if self._calls == 2:  # the prompt comes first
            self.seconds = since(self._begun)

    def end(self) -> None:
        """Nothing to do."""


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def since(begun: Seconds) -> Seconds:
    return Seconds(time.perf_counter() - begun.wall, time.process_time() - begun.cpu)


def timed(work: Callable[[], object]) -> Seconds:
    begun = now()
    work()
    return since(begun)


def compared(what: str, peer: str, pairs: Sequence[tuple[Seconds, Seconds]], target: str) -> Result:
    """The row of (ours, peer's)."""
    ratios = [theirs.cpu / ours.cpu for ours, theirs in pairs]
    quartiles = statistics.quantiles(ratios, n=4)

    def median(of: Callable[[tuple[Seconds, Seconds]], float]) -> float:
        return 1000 * statistics.median(map(of, pairs))

    return Result(
        what,
        median(lambda pair: pair[0].cpu),
        median(lambda pair: pair[0].wall),
        peer,
        median(lambda pair: pair[1].cpu),
        median(lambda pair: pair[1].wall),
        statistics.median(ratios),
        (quartiles[2] - quartiles[0]) / 2,
        target,
    )


# ---- the first token ----------------------------------------------------------------------------


def make_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=768,
        intermediate_size=2560,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=6,
        head_dim=64,
        max_position_embeddings=8192,
        initializer_range=0.05,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def make_prompt(question: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(SEED)
    prefix = torch.randint(VOCAB, (1, PREFIX), generator=chance)
    chance.manual_seed(SEED + 1 + question)
    return torch.cat([prefix, torch.randint(VOCAB, (1, QUESTION), generator=chance)], dim=1)


def first_token(model: Any, prompt: torch.Tensor, store: KVStore | None = None) -> Seconds:
    clock = FirstToken()
    if store is None:
        model.generate(prompt, max_new_tokens=1, streamer=clock)
    else:
        generate(model, prompt, store=store, max_new_tokens=1, streamer=clock)
    return clock.seconds


def from_memory(model: Any, rounds: int) -> Result:
    with KVStore(layout_of(model), capacity_bytes="2GiB") as store:
        wanted = model.generate(make_prompt(0), max_new_tokens=8)
        for _ in range(2):
            if not torch.equal(
                generate(model, make_prompt(0), store=store, max_new_tokens=8), wanted
            ):
                raise AssertionError("the store changes the answer")
        pairs = []
        for number in range(1, rounds + 1):
            prompt = make_prompt(number)
            ours = first_token(model, prompt, store)
            pairs.append((ours, first_token(model, prompt)))
    return compared("first token, prefix in memory", "full prefill", pairs, ">=10")


def from_disk(model: Any, rounds: int, folder: Path) -> Result:
    """A process a round, which opens the store and then reads everything itself."""
    model.save_pretrained(folder / "model")
    with KVStore(layout_of(model), capacity_bytes="2GiB", path=folder / "store") as store:
        generate(model, make_prompt(0), store=store, max_new_tokens=1)
    pairs = []
    for number in range(1, rounds + 1):
        command = [sys.executable, __file__, "--child", str(number), "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        report = json.loads(done.stdout.splitlines()[-1])
        if report["reused"] != PREFIX:
            raise AssertionError(f"{report['reused']} of {PREFIX} tokens came from disk")
        pairs.append((Seconds(*report["ours"]), Seconds(*report["full"])))
    return compared("first token, new process, disk", "full prefill", pairs, ">=5")


def child(number: int, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder / "model", use_safetensors=True).eval()
    model.generate(make_prompt(0)[:, -QUESTION:], max_new_tokens=2)  # reads the weights
    prompt = make_prompt(number)
    begun = now()
    with KVStore(
        layout_of(model), capacity_bytes="2GiB", path=folder / "store", read_only=True
    ) as store:
        opened = since(begun)
        token = first_token(model, prompt, store)
        reused = store.stats().tokens_from_tier
    ours = opened.wall + token.wall, opened.cpu + token.cpu
    full = first_token(model, prompt)
    print(json.dumps({"ours": ours, "full": (full.wall, full.cpu), "reused": reused}))


def embedded(rounds: int, folder: Path) -> list[Result]:
    """The same with the model inside the package, the disk's store opened anew each time."""
    plain, ours = Mini(), Mini()
    layers, heads, dim = plain.kv_shape
    layout = KVLayout(layers=layers, kv_heads=heads, head_dim=dim, dtype=plain.kv_dtype)
    briefing = "Horno La Espiga, panadería artesanal con molino propio y tres tiendas. "
    text = briefing
    while plain.count_tokens([Message("system", text)]) < PREFIX + 8:
        text += briefing
    one = Sampling(max_tokens=1, temperature=0)
    where = "mini: first token, prefix in memory", "mini: first token, new store, disk"
    pairs: list[list[tuple[Seconds, Seconds]]] = [[], []]

    def messages(number: int) -> list[Message]:
        return [Message("system", text), Message("user", f"Documento número {number}")]

    with KVStore(layout, capacity_bytes="1GiB", path=folder / "mini") as store:
        ours.keep_prefixes(store)
        ours.generate(messages(0), sampling=one)
        for number in range(1, rounds + 1):
            wanted = plain.generate(messages(number), sampling=one)  # warms up, too
            full = timed(partial(plain.generate, messages(number), sampling=one))
            begun = now()
            found = ours.generate(messages(number), sampling=one)
            pairs[0].append((since(begun), full))
            if found.text != wanted.text or found.usage.cached_tokens < PREFIX:
                raise AssertionError("the store changes the answer, or is not used")
    for number in range(1, rounds + 1):
        full = timed(partial(plain.generate, messages(number), sampling=one))
        begun = now()
        with KVStore(layout, capacity_bytes="1GiB", path=folder / "mini", read_only=True) as store:
            ours.keep_prefixes(store)
            ours.generate(messages(number), sampling=one)
            pairs[1].append((since(begun), full))
    return [
        compared(what, "full prefill", both, target)
        for what, both, target in zip(where, pairs, (">=10", ">=5"), strict=True)
    ]


# ---- a step of decoding -------------------------------------------------------------------------


def filled(cache: Any, config: Any, tokens: int) -> Any:
    """A cache of so many tokens that nobody has said."""
    chance = torch.Generator().manual_seed(SEED)
    shape = (1, config.num_key_value_heads, tokens, config.head_dim)
    for layer in range(config.num_hidden_layers):
        keys, values = (torch.randn(shape, generator=chance) for _ in range(2))
        cache.update(keys, values, layer)
    return cache


def caches(config: Any, tokens: int) -> dict[str, Any]:
    from transformers import DynamicCache, QuantizedCache, StaticCache

    room = tokens + 64
    made: dict[str, Callable[[], Any]] = {
        "KVCache": lambda: KVCache(config),
        "StaticCache": lambda: StaticCache(config=config, max_cache_len=room),
        "DynamicCache": lambda: DynamicCache(config=config),
        "KVCache int8": lambda: KVCache(config, codec="int8"),
        "KVCache int4_kc": lambda: KVCache(config, codec="int4_kc"),
        "QuantizedCache fp8": lambda: QuantizedCache("fp8", config),
        "QuantizedCache quanto": lambda: QuantizedCache("quanto", config, nbits=4),
    }
    found = {}
    for name, make in made.items():
        try:
            found[name] = filled(make(), config, tokens)
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


def decoding(model: Any, rounds: int, tokens: int) -> list[Result]:
    config = model.config
    token = torch.full((1, 1), 7)
    x = torch.ones((1, config.num_key_value_heads, 1, config.head_dim))
    contenders = caches(config, tokens)

    def step(cache: Any) -> None:
        model(token, cache=cache, use_cache=True)

    def cache_alone(cache: Any) -> None:
        for layer in range(config.num_hidden_layers):
            cache.update(x, x, layer)

    results = []
    with torch.inference_mode():
        for what, work in (("decode step", step), ("the cache's part of it", cache_alone)):
            times: dict[str, list[Seconds]] = {name: [] for name in contenders}
            for number in range(rounds + 1):
                order = list(contenders.items())
                for name, cache in order[number % len(order) :] + order[: number % len(order)]:
                    spent = timed(partial(work, cache))
                    if cache.is_croppable:
                        cache.crop(-1)
                    if number:  # the first one warms up
                        times[name].append(spent)
            for ours, peer, target in (
                ("KVCache", "StaticCache", ">=0.91"),
                ("KVCache", "DynamicCache", ""),
                ("KVCache int8", "QuantizedCache fp8", ">=5"),
                ("KVCache int4_kc", "QuantizedCache quanto", ">=5"),
            ):
                if peer in times:
                    pairs = list(zip(times[ours], times[peer], strict=True))
                    wanted = target if work is step or peer.startswith("Q") else ""
                    results.append(compared(f"{what}, {ours}", peer, pairs, wanted))
    return results


def show(row: Result) -> None:
    print(
        f"{row.what:38} {row.ours_ms:8.1f} ({row.ours_wall_ms:.0f})  {row.peer:22}"
        f" {row.peer_ms:8.1f} ({row.peer_wall_ms:.0f})  {row.ratio:6.2f} ± {row.spread:.2f}"
        f"  {row.target}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("memory", "disk", "mini", "decode"), action="append")
    parser.add_argument("--tokens", type=int, default=PREFIX, help="that a cache holds: decode")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    if options.child is not None:
        child(options.child, options.folder)
        return
    wanted = options.only or ("memory", "disk", "mini", "decode")
    model = make_model()
    weights = sum(x.numel() for x in model.parameters())
    if not options.json:
        print(f"{weights:,} weights, {PREFIX:,} + {QUESTION} tokens; ms of CPU (wall), peer ÷ ours")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        tables: dict[str, Callable[[], list[Result]]] = {
            "memory": lambda: [from_memory(model, options.rounds)],
            "disk": lambda: [from_disk(model, options.rounds, Path(name))],
            "mini": lambda: embedded(options.rounds, Path(name)),
            "decode": lambda: decoding(model, options.rounds, options.tokens),
        }
        for table in wanted:
            rows = tables[table]()
            results += rows
            for row in () if options.json else rows:
                show(row)
    if options.json:
        print(json.dumps({"weights": weights, "results": [asdict(row) for row in results]}))


if __name__ == "__main__":
    main()
