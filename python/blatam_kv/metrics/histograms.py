"""Counts of durations in fixed buckets, as Prometheus shows them, at a fifth of its library's cost.

A hit over HTTP notes four durations; with the library's own histograms that was a tenth of all it
costs. A scrape is mostly their lines, so each series keeps its lines with places for the numbers.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from blatam_kv.metrics.exposition import head, labelled, number

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Buckets:
    """One series. Safe from any thread."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one duration in the first bucket that it does not exceed."""
        index = bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts[index] += 1
            self._sum += seconds

    def snapshot(self) -> tuple[list[int], float]:
        """How many do not exceed each bound, the last for infinity; and the sum."""
        with self._lock:
            counts, total = self._counts[:], self._sum
        return list(accumulate(counts)), total


class Histogram:
    """All series of one name, by the values of their labels. Safe from any thread."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._bounds = tuple(sorted(bounds))
        self._ends = [number(bound) for bound in (*self._bounds, float("inf"))]
        self._head = head(name, text, "histogram")
        self._series: dict[tuple[str, ...], Buckets] = {}
        self._lines: dict[tuple[str, ...], bytes] = {}
        if not labels:
            self.of()

    def of(self, *values: str) -> Buckets:
        """The series with these values; made when first asked for."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}, not {len(values)}")
            series = self._series.setdefault(values, Buckets(self._bounds))
        return series

    def show(self, values: tuple[str, ...], series: Buckets) -> None:
        """Take in a series that somebody else counts in, with the same bounds."""
        if series._bounds != self._bounds or len(values) != len(self.labels):
            raise ValueError(f"{self.name} has other bounds or labels than the series {values}")
        self._series[values] = series

    def series(self) -> Iterator[tuple[tuple[str, ...], Buckets]]:
        """Every series there is."""
        yield from list(self._series.items())

    def exposed(self) -> bytes:
        """Every series as Prometheus reads it."""
        parts = [self._head]
        for values, series in self.series():
            lines = self._lines.get(values)
            if lines is None:
                lines = self._lines[values] = self._lines_of(values)
            counts, total = series.snapshot()
            parts.append(lines % (*counts, counts[-1], number(total).encode()))
        return b"".join(parts)

    def _lines_of(self, values: tuple[str, ...]) -> bytes:
        """The lines of a series, with places for its numbers."""
        own = dict(zip(self.labels, values, strict=True))
        names = [labelled(f"{self.name}_bucket", {**own, "le": end}) for end in self._ends]
        names.append(labelled(f"{self.name}_count", own))
        lines = [name.replace(b"%", b"%%") + b" %d.0\n" for name in names]
        last = labelled(f"{self.name}_sum", own).replace(b"%", b"%%")
        return b"".join([*lines, last, b" %b\n"])

    def family(self) -> Metric:
        """The same for who reads the library's form."""
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for values, series in self.series():
            counts, total = series.snapshot()
            family.add_metric(values, list(zip(self._ends, counts, strict=True)), total)
        return family


class Histograms:
    """Those of one service. Safe from any thread."""

    def __init__(self) -> None:
        self._all: list[Histogram] = []

    def new(
        self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        """One more."""
        made = Histogram(name, text, bounds, labels)
        self._all.append(made)
        return made

    def __iter__(self) -> Iterator[Histogram]:
        return iter(self._all)

    def exposed(self) -> bytes:
        """All of them as Prometheus reads them."""
        return b"".join([histogram.exposed() for histogram in self._all])
