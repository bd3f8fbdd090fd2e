"""``simulate``: how well policies would have done on a trace, without any values."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blatam_kv._core import Replay, policies
from blatam_kv.curves import draw
from blatam_kv.errors import ConfigError
from blatam_kv.policy import SHADOWS, checked_options
from blatam_kv.traces import Integers, Report, StrPath, read

if TYPE_CHECKING:
    from fractions import Fraction

DEFAULT_POLICY = "adaptive"
DEFAULT_CAPACITY = 10_000
OPTIMUM = "belady"

# Short enough that Ctrl-C is heard at once, long enough that nothing else is.
_STRETCH = 1 << 15  # requests


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """One policy with one capacity: bytes where sizes were given, else objects.

    The ratios are of requests and of the bytes requested; bytes are None where sizes are not known.
    """

    policy: str
    capacity: int
    requests: int
    hits: int
    hit_ratio: float
    bytes_requested: int | None = None
    bytes_hit: int | None = None
    byte_hit_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What ``simulate`` found: ``results`` in the order of the policies, then of the capacities.

    requests and unique count objects, or blocks where the trace is one of prompts, whose number is
    prompts then. unique_bytes is what one copy of each object takes, where sizes are known.
    """

    trace: str
    requests: int
    unique: int
    prompts: int | None
    unique_bytes: int | None
    results: list[SimulationResult]

    @property
    def hit_ratio(self) -> float:
        """That of the first result."""
        return self.results[0].hit_ratio

    @property
    def summary(self) -> str:
        """What the trace is, in a line."""
        if self.prompts is not None:
            return f"{self.requests:,} blocks of {self.prompts:,} prompts, {self.unique:,} unique"
        size = "" if self.unique_bytes is None else f", {self.unique_bytes:,} bytes"
        return f"{self.requests:,} requests for {self.unique:,} objects{size}"

    def plot(self, path: StrPath) -> None:
        """Draw hit ratio over capacity, one line a policy, as .png, .svg, .pdf, ...

        Raises MissingExtra without matplotlib, InvalidRequest where it cannot be drawn.
        """
        lines: dict[str, list[tuple[int, float]]] = {}
        for result in self.results:
            lines.setdefault(result.policy, []).append((result.capacity, result.hit_ratio))
        unit = "objects" if self.prompts is None else "blocks"
        draw(
            path,
            lines,
            title=self.trace.rpartition(os.sep)[2],
            subtitle=self.summary,
            capacity=unit if self.unique_bytes is None else "bytes",
            optimum=OPTIMUM,
        )


def simulate(
    trace: StrPath | Integers,
    policy: str | Sequence[str] = DEFAULT_POLICY,
    capacity: int | str | Sequence[int | str] = DEFAULT_CAPACITY,
    *,
    sizes: StrPath | Integers | None = None,
    column: str | None = None,
    size_column: str | None = None,
    decay: float | None = None,
    window: float | None = None,
    interval: float | None = None,
    shadows: int | str | None = None,
    progress: bool | None = None,
) -> Simulation:
    """Replay a trace against every policy with every capacity, in one pass.

    trace: a 1-D array or list of integers from 0 to 2**64-1, or a file: ``.u32``, ``.txt``, ``.csv`` or
    ``.jsonl``, maybe packed as ``.xz`` or ``.gz`` (see ``blatam_kv.traces``). policy: any that ``Cache``
    takes, and ``belady``, the optimum, which knows the future and may decline to store. capacity:
    a number of objects, or ``"5%"`` of the trace's unique objects, rounded and at least one. With
    sizes both are of bytes: 1048576, ``"5%"`` of the unique bytes.

    sizes: bytes for each request, an array or a file ``.sz``; size_column: the column of a CSV file
    that holds them, as column is that of the keys. An object whose size has changed is another object.
    One larger than the capacity is not stored. With sizes ``belady`` is clairvoyant still, but no
    longer the best there is.

    Objects: every request is a get, and a put if that missed, as with ``Cache``. Prompts
    (``.jsonl``): a block is a hit only if all blocks before it are; then the whole prompt is touched from
    its last block to its first, what is missing is inserted, and blocks that no resident block follows
    are evicted down to the capacity, maybe some just inserted.

    decay, window, interval, shadows: options of single policies, as ``Cache`` takes them; prompts have
    full shadows by default, as in ``KVStore``. progress: a bar on stderr; by default if that is a
    terminal.

    Raises ConfigError for a policy, capacity or option, InvalidRequest for a trace or sizes; both are
    ValueErrors. Ctrl-C is heard at any time.

    Source: csrc/core/simulate.h.
    """
    names = _policies(policy)
    options = checked_options(names, decay=decay, window=window, interval=interval, shadows=shadows)
    wanted = _capacities(capacity)
    with _bar("reading", "", progress) as report:
        read_trace = read(trace, sizes=sizes, column=column, size_column=size_column, report=report)
    sized = read_trace.kind == "sized"
    if read_trace.kind == "prefixes" and shadows is None:
        options["shadows"] = SHADOWS["full"]
    whole = read_trace.unique_bytes if sized else read_trace.unique
    contestants = [(name, _of(each, whole)) for name in names for each in wanted]
    replay = Replay(read_trace, contestants, **options)
    with _bar("replaying", " requests", progress) as report:
        done = 0
        while done < read_trace.requests:
            done = replay.advance(_STRETCH)
            report(done, read_trace.requests)
    return Simulation(
        trace=os.fspath(trace) if isinstance(trace, str | os.PathLike) else "array",
        requests=read_trace.requests,
        unique=read_trace.unique,
        prompts=read_trace.prompts if read_trace.kind == "prefixes" else None,
        unique_bytes=read_trace.unique_bytes if sized else None,
        results=[
            _result(contestant, tally, sized=sized)
            for contestant, tally in zip(contestants, replay.tallies(), strict=True)
        ],
    )


def _result(
    contestant: tuple[str, int], tally: tuple[int, int, int, int], *, sized: bool
) -> SimulationResult:
    requests, hits, bytes_requested, bytes_hit = tally
    return SimulationResult(
        policy=contestant[0],
        capacity=contestant[1],
        requests=requests,
        hits=hits,
        hit_ratio=hits / requests,
        bytes_requested=bytes_requested if sized else None,
        bytes_hit=bytes_hit if sized else None,
        byte_hit_ratio=bytes_hit / max(1, bytes_requested) if sized else None,
    )


# ---- arguments ----------------------------------------------------------------------------------


def _policies(policy: str | Sequence[str]) -> list[str]:
    names = [policy] if isinstance(policy, str) else list(policy)
    known = (*policies(), OPTIMUM)
    for name in names:
        if name not in known:
            from blatam_kv.config import did_you_mean

            hint = did_you_mean(name, known) if isinstance(name, str) else ""
            raise ConfigError(f"unknown policy {name!r}{hint}; choose from {', '.join(known)}")
    if not names:
        raise ConfigError(f"name at least one policy of {', '.join(known)}")
    return names


def _capacities(capacity: int | str | Sequence[int | str]) -> list[int | Fraction]:
    """Each as a number, or as a Fraction of the whole."""
    single = isinstance(capacity, str) or not hasattr(capacity, "__iter__")
    each = [capacity] if single else list(capacity)  # type: ignore[arg-type]  # a sequence, then
    if not each:
        raise ConfigError("give at least one capacity")
    return [_capacity(value) for value in each]  # type: ignore[arg-type]


def _capacity(value: int | str) -> int | Fraction:
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+|\d*\.\d+)\s*%\s*", value, re.ASCII)
        if found is not None and float(found[1]) > 0:
            from fractions import Fraction

            return Fraction(found[1]) / 100
        if not re.fullmatch(r"\s*\d+\s*", value, re.ASCII):
            raise ConfigError(f"cannot take {value!r} as a capacity; write 10000 or '5%'")
    elif isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"a capacity must be an int or a str, not {type(value).__name__}")
    number = int(value)
    if not 1 <= number <= 2**62:
        raise ConfigError(f"a capacity must be from 1 to 2**62, or a share as '5%', not {value}")
    return number


def _of(capacity: int | Fraction, whole: int) -> int:
    return capacity if isinstance(capacity, int) else max(1, round(capacity * whole))


# ---- progress -----------------------------------------------------------------------------------


@contextmanager
def _bar(what: str, unit: str, progress: bool | None) -> Iterator[Report]:
    """A function that moves a bar on stderr, or does nothing."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, unit_scale=True, leave=False, delay=0.5) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
