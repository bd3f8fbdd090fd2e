"""``exp4`` and ``exp_huff`` beside zipnn, zstd, lz4 and blosc2: ratio, speed both ways, targets.

bfloat16 keys and values, as bytes for the peers. Every round times each contender in turn, in CPU
time of the process, since zipnn and blosc2 work in threads of their own; what comes back is compared
first. Ours goes through the Python API with its checksum. The copy is numpy's; the C++ benchmark
(kernel_bench) has the faster one that passes the caches by, which the targets refer to.

Peers that are not installed are named and left out: pip install zstandard lz4 blosc2, and zipnn with
-c constraints.txt, because it wants torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import blatam_kv as kv
from blatam_kv.truthgpt.decoder import Decoder, Memory
from blatam_kv.truthgpt.mini import WEIGHTS
from blatam_kv.truthgpt.weights import load_weights

Array = npt.NDArray[Any]
BYTES = 32 << 20
SHAPE = (BYTES // 2048, 8, 128)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to shrink ``x``. ``expand`` takes what ``shrink`` returns, and gives back the bytes."""

    name: str
    shrink: Callable[[], Any]
    expand: Callable[[Any], Any]
    target: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    data: str
    who: str
    ratio: float
    shrink: float  # GB/s of uncompressed bytes, medians
    shrink_spread: float  # half the inter-quartile range
    expand: float
    expand_spread: float
    target: str


def bf16(x: Array) -> Array:
    """Bits of the nearest bfloat16, ties to even."""
    wide = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)


def data() -> Iterator[tuple[str, Array]]:
    """Keys with outlier channels, heavy-tailed values, and what the embedded model computes."""
    random = np.random.default_rng(0)
    channels = SHAPE[1:]
    far = random.random(channels) < 0.03
    mean = np.where(far, random.uniform(8, 16, channels), random.normal(0, 0.3, channels))
    spread = np.exp(random.normal(0, 0.4, channels))
    yield "K, outlier channels", bf16(random.standard_normal(SHAPE, np.float32) * spread + mean)
    spread = 0.5 * np.exp(random.normal(0, 0.3, channels))
    yield "V, heavy tails", bf16(random.standard_t(5, SHAPE) * spread)
    keys, values = mini()
    yield "K of mini", keys
    yield "V of mini", values


def mini() -> tuple[Array, Array]:
    """Keys and values of 1,024 tokens, repeated to the size of the others."""
    decoder = Decoder(load_weights(WEIGHTS))
    tokens = np.random.default_rng(1).integers(0, decoder.shape.vocab, 1024).astype(np.int32)
    memory = Memory.reserve(decoder.shape, tokens.size)
    decoder.prefill(tokens, memory, 0)
    found = []
    for stored in (memory.keys, memory.values):
        flat = bf16(stored[:, : tokens.size]).reshape(-1)
        found.append(np.resize(flat, BYTES // 2).reshape(SHAPE))
    return found[0], found[1]


def ours(codec: str, x: Array, target: str) -> Contender:
    room = np.zeros(kv.encoded_size(x, codec=codec, dtype="bfloat16"), np.uint8)
    back = np.empty_like(x)
    return Contender(
        codec,
        lambda: kv.quantize(x, codec=codec, dtype="bfloat16", out=room),
        lambda blob: kv.dequantize(blob, out=back, dtype="bfloat16"),
        target,
    )


def peers(x: Array) -> Iterator[Contender]:
    plain = x.tobytes()
    if zipnn := library("zipnn"):
        both = zipnn.ZipNN(input_format="byte", bytearray_dtype="bfloat16", threads=1)
        # It may write into what it is given.
        yield Contender("zipnn", lambda: both.compress(bytearray(plain)), both.decompress)
    if zstd := library("zstandard"):
        pack, unpack = zstd.ZstdCompressor(level=1), zstd.ZstdDecompressor()
        yield Contender("zstd -1", lambda: pack.compress(plain), unpack.decompress)
    if lz4 := library("lz4.frame"):
        yield Contender("lz4", lambda: lz4.compress(plain), lz4.decompress)
    if blosc2 := library("blosc2"):
        blosc2.set_nthreads(1)
        for name, filters, codec in (
            ("blosc2 lz4 bitshuffle", blosc2.Filter.BITSHUFFLE, blosc2.Codec.LZ4),
            ("blosc2 zstd shuffle", blosc2.Filter.SHUFFLE, blosc2.Codec.ZSTD),
        ):
            yield Contender(
                name,
                lambda f=filters, c=codec: blosc2.compress(  # type: ignore[misc]
                    plain, typesize=2, clevel=1, filter=f, codec=c
                ),
                blosc2.decompress,
            )


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def contenders(x: Array) -> Iterator[Contender]:
    yield ours("exp4", x, "")
    yield ours("exp_huff", x, ">=1.47, >=1, >=2")
    copy = np.empty_like(x)

    def put() -> Array:
        np.copyto(copy, x)
        return copy

    def back(of: Array) -> Array:
        np.copyto(of, x)
        return of

    yield Contender("copy", put, back)
    yield from peers(x)


def measure(name: str, x: Array, rounds: int) -> Iterator[Result]:
    field = list(contenders(x))
    packed = {one.name: one.shrink() for one in field}
    for one in field:
        returned = one.expand(packed[one.name])
        if np.asarray(memoryview(returned)).tobytes() != x.tobytes():
            raise AssertionError(f"{one.name} does not give {name} back")
    times: dict[str, tuple[list[float], list[float]]] = {one.name: ([], []) for one in field}
    for _ in range(rounds):
        for one in field:
            start = time.process_time_ns()
            blob = one.shrink()
            middle = time.process_time_ns()
            one.expand(blob)
            end = time.process_time_ns()
            times[one.name][0].append(x.nbytes / max(1, middle - start))
            times[one.name][1].append(x.nbytes / max(1, end - middle))
    for one in field:
        shrink, expand = (statistics.quantiles(rates, n=4) for rates in times[one.name])
        size = memoryview(packed[one.name]).nbytes
        yield Result(
            name, one.name, x.nbytes / size,
            shrink[1], (shrink[2] - shrink[0]) / 2, expand[1], (expand[2] - expand[0]) / 2,
            one.target,
        )  # fmt: skip


def report(results: list[Result], rounds: int) -> None:
    absent = [n for n in ("zipnn", "zstandard", "lz4.frame", "blosc2") if library(n) is None]
    print(f"lossless codecs, {BYTES >> 20} MiB of bfloat16, CPU time, median of {rounds} rounds")
    if absent:
        print(f"not installed: {', '.join(absent)}")
    print(f"{'':22}{'':24}{'ratio':>7}{'in GB/s':>10}{'±':>6}{'out GB/s':>10}{'±':>6}  target")
    before = ""
    for r in results:
        print(
            f"{r.data if r.data != before else '':22}{r.who:24}{r.ratio:7.3f}{r.shrink:10.2f}"
            f"{r.shrink_spread:6.2f}{r.expand:10.2f}{r.expand_spread:6.2f}  {r.target}"
        )
        before = r.data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="at least 2")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    results = [one for name, x in data() for one in measure(name, x, options.rounds)]
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        report(results, options.rounds)


if __name__ == "__main__":
    main()
