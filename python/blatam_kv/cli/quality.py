"""``quality``: what each codec costs in bits and keeps in quality, as a table and a picture.

By default on keys and values of the embedded model and on made ones whose channels have outliers;
with ``--kv`` on a file's, with ``--model`` on those of a transformers model.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from blatam_kv import codecs
from blatam_kv.cli import scatter
from blatam_kv.cli.report import show
from blatam_kv.cli.samples import Sample, embedded, from_file, outliers
from blatam_kv.probe import quality as probe

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One codec on one sample: means over its layers."""

    sample: str
    codec: str
    bits: float
    key_error: float
    value_error: float
    attention_error: float
    perplexity_change: float | None  # 0.01: one per cent worse; None where there is no model


@dataclass(frozen=True, slots=True)
class Speed:
    """Gigabytes of bfloat16 a second, on one thread, checksum included."""

    quantize: float
    dequantize: float


def quality(
    *,
    names: Sequence[str],
    model: Path | None,
    file: Path | None,
    as_json: bool,
    plot: Path | None,
) -> int:
    """Print the table, and draw it where ``plot`` says."""
    if plot is not None:
        scatter.check(plot)  # before the work, not after
    if file is not None:
        samples = [from_file(file)]
    elif model is not None:
        from blatam_kv.cli.foreign import from_model

        samples = [from_model(model)]
    else:
        samples = [embedded(), outliers()]
    chosen = list(names) or list(codecs.NAMES)
    rows = [measure(sample, codec) for sample in samples for codec in chosen]
    speeds = {codec: speed(codec) for codec in chosen}
    if plot is not None:
        scatter.draw(plot, [(row.sample, row.codec, row.bits, row.attention_error) for row in rows])
    if as_json:
        report = [{**asdict(row), **asdict(speeds[row.codec])} for row in rows]
        show({"rows": report}, as_json=True)
    else:
        for sample in samples:
            print(_table(sample, [row for row in rows if row.sample == sample.name], speeds))
    return 0


def measure(sample: Sample, codec: str) -> Row:
    """The errors of a codec on a sample."""
    found = [
        probe(keys, values, codec=codec, queries=queries, dtype=sample.dtype, seed=layer)
        for layer, (keys, values, queries) in enumerate(sample.layers)
    ]
    change = None
    if sample.loss is not None:
        change = math.expm1(sample.loss(codec) - sample.loss(None))
    return Row(
        sample=sample.name,
        codec=codec,
        bits=statistics.fmean(each.bits for each in found),
        key_error=statistics.fmean(each.key_error for each in found),
        value_error=statistics.fmean(each.value_error for each in found),
        attention_error=statistics.fmean(each.attention_error for each in found),
        perplexity_change=change,
    )


def speed(codec: str) -> Speed:
    """How fast keys and values of usual size go in and come out: medians of thread time."""
    import numpy as np

    from blatam_kv import tensors

    random = np.random.default_rng(0)
    x = tensors.narrowed(random.standard_normal((4096, 8, 128), np.float32), "bfloat16")
    blob = codecs.quantize(x, codec=codec, kind="key", dtype="bfloat16")
    out = np.empty_like(x)
    there, back = [], []
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        blob = codecs.quantize(x, codec=codec, kind="key", dtype="bfloat16", out=blob)
        between = time.thread_time_ns()
        codecs.dequantize(blob, out=out)
        there.append(between - start)
        back.append(time.thread_time_ns() - between)
    return Speed(x.nbytes / statistics.median(there), x.nbytes / statistics.median(back))


def _table(sample: Sample, rows: Sequence[Row], speeds: dict[str, Speed]) -> str:
    lines = [
        f"{sample.name}: {sample.about}",
        f"{'codec':<20}{'bits':>7}{'K error':>10}{'V error':>10}{'attention':>11}"
        f"{'perplexity':>12}{'GB/s in':>9}{'out':>7}",
    ]
    for row in rows:
        change = "" if row.perplexity_change is None else f"{100 * row.perplexity_change:+.3f} %"
        rate = speeds[row.codec]
        lines.append(
            f"{row.codec:<20}{row.bits:>7.3f}{row.key_error:>10.5f}{row.value_error:>10.5f}"
            f"{row.attention_error:>11.5f}{change:>12}{rate.quantize:>9.1f}{rate.dequantize:>7.1f}"
        )
    return "\n".join([*lines, ""])
