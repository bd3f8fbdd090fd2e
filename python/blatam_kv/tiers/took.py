"""How long a tier takes for its calls."""

from __future__ import annotations

from time import perf_counter

from blatam_kv.metrics.histograms import Buckets
from blatam_kv.metrics.tiers import SECONDS


class Took:
    """Calls that were served and that were not, by what they were. Safe from any thread."""

    __slots__ = ("get", "put")

    def __init__(self) -> None:
        self.get, self.put = Buckets(SECONDS), Buckets(SECONDS)

    def by_operation(self) -> dict[str, Buckets]:
        """For the exporter."""
        return {"get": self.get, "put": self.put}


class timed:  # it reads as a verb of ``with``; a generator takes three times as long
    """Count the body of a ``with``, also when it raises."""

    __slots__ = ("_series", "_start")

    def __init__(self, series: Buckets) -> None:
        self._series = series

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._series.observe(perf_counter() - self._start)
