"""Our histograms beside the library's: what Prometheus reads must be the same."""

from __future__ import annotations

import threading

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.metrics.histograms import Buckets, Histogram

BOUNDS = (0.001, 0.01, 0.1, 1.0)


@given(st.lists(st.one_of(st.floats(0, 5), st.sampled_from(BOUNDS))))
def test_the_counts_are_those_of_the_library(durations: list[float]) -> None:
    ours = Buckets(BOUNDS)
    theirs = prometheus_client.Histogram("x", "x", buckets=BOUNDS, registry=None)
    for seconds in durations:
        ours.observe(seconds)
        theirs.observe(seconds)
    counts, total = ours.snapshot()
    (family,) = theirs.collect()
    expected = [sample.value for sample in family.samples if sample.name == "x_bucket"]
    assert counts == expected
    (sum_there,) = [sample.value for sample in family.samples if sample.name == "x_sum"]
    assert total == pytest.approx(sum_there)


def test_a_series_is_made_once_and_needs_all_its_labels() -> None:
    histogram = Histogram("x", "x", BOUNDS, ["a", "b"])
    assert histogram.of("1", "2") is histogram.of("1", "2")
    assert [values for values, _ in histogram.series()] == [("1", "2")]
    with pytest.raises(ValueError, match="labels"):
        histogram.of("1")
    assert [values for values, _ in Histogram("y", "y", BOUNDS).series()] == [()]


def test_nothing_is_lost_between_threads() -> None:
    buckets = Buckets(BOUNDS)

    def count() -> None:
        for _ in range(10_000):
            buckets.observe(0.05)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts, _ = buckets.snapshot()
    assert counts[-1] == 40_000
