"""How long a tier takes for its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def timed(series: Buckets) -> Iterator[None]:
    """Count the body of a ``with``, also when it raises."""
    start = perf_counter()
    try:
        yield
    finally:
        series.observe(perf_counter() - start)
