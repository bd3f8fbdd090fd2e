"""What a codec had to do, and what is told of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from blatam_kv.metrics.histograms import Buckets

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# A block of a small model takes a few microseconds, one of a large model milliseconds.
BLOCK_SECONDS = (0.00002, 0.0001, 0.0005, 0.0025, 0.01, 0.1)


class CodecWork:
    """Blocks encoded, or blocks decoded, each as a whole: times and bytes. Safe from any thread.

    raw_bytes: of keys and values; encoded_bytes: of what they became, or were.
    """

    __slots__ = ("_lock", "encoded_bytes", "raw_bytes", "took")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.took = Buckets(BLOCK_SECONDS)
        self.raw_bytes = self.encoded_bytes = 0

    def did(self, seconds: float, *, raw: int, encoded: int) -> None:
        """One more block."""
        self.took.observe(seconds)
        with self._lock:
            self.raw_bytes += raw
            self.encoded_bytes += encoded


def bytes_of(codec: str, work: Mapping[str, CodecWork]) -> Iterator[Metric]:
    """The bytes of a codec's work, by operation; their ratio is what it saves."""
    from prometheus_client.core import CounterMetricFamily

    labels = ["codec", "operation"]
    raw = CounterMetricFamily("kv_codec_raw_bytes", "Keys and values, decoded.", labels=labels)
    encoded = CounterMetricFamily("kv_codec_encoded_bytes", "The same, encoded.", labels=labels)
    for operation, done in work.items():
        raw.add_metric([codec, operation], done.raw_bytes)
        encoded.add_metric([codec, operation], done.encoded_bytes)
    yield from (raw, encoded)
