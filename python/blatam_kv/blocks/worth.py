"""What is worth fetching: bytes over a network against tokens through the model.

A block that another node has need not be computed, but must be brought here, and on a slow network,
or for a small model, computing is quicker. Both are measured by what they really took; as long as
either is unknown, blocks are fetched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

from blatam_kv.tiers.rate import Rate

# While nothing is worth fetching nothing is measured: as often as this so many bytes are fetched
# all the same, to see whether the network is faster again.
PROBE_SECONDS = 30.0
PROBE_BYTES = 1 << 20
# Of what a fetch took this much at least was spent on bytes, whatever a round trip takes.
_LEAST_SHARE = 0.1


class Worth:
    """Decides how many blocks to fetch. Safe from any thread. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.trips, self.bytes, self.tokens = Rate(clock), Rate(clock), Rate(clock)
        self._lock = threading.Lock()  # guards _probe_at
        self._probe_at = float("-inf")

    def asked(self, seconds: float) -> None:
        """A round trip without a payload took so long."""
        self.trips.note(1, seconds)

    def brought(self, size: int, seconds: float) -> None:
        """So many bytes were fetched, in one round trip."""
        trip = self.trips.seconds(1) or 0.0
        self.bytes.note(size, max(seconds - trip, _LEAST_SHARE * seconds))

    def computed(self, tokens: int, seconds: float) -> None:
        """The model read so many tokens of a prompt."""
        self.tokens.note(tokens, seconds)

    def blocks(self, sizes: Sequence[int], block_tokens: int) -> int:
        """How many leading blocks to fetch, so that fetching them and computing the rest is soonest
        done; of equally quick ways the one that computes least.

        sizes: bytes of each block, 0 for one that is nearer and costs nothing.
        """
        if not any(sizes):
            return len(sizes)
        block_seconds = self.tokens.seconds(block_tokens)
        byte_seconds = self.bytes.seconds(1)
        if block_seconds is None or byte_seconds is None:
            return len(sizes)
        trip = self.trips.seconds(1) or 0.0
        best, least = 0, len(sizes) * block_seconds
        for count, size in enumerate(accumulate(sizes), start=1):
            cost = (trip + size * byte_seconds if size else 0.0) + (
                (len(sizes) - count) * block_seconds
            )
            if cost <= least:
                best, least = count, cost
        if not any(sizes[:best]) and self._probes():
            return next(
                (
                    count
                    for count, size in enumerate(accumulate(sizes), start=1)
                    if size >= PROBE_BYTES
                ),
                len(sizes),
            )
        return best

    def _probes(self) -> bool:
        """Whether this fetch is to look how fast the network is: one is now and then, and the next one
        at once where the last one met a surprise."""
        with self._lock:
            now = self._clock()
            waits = self.bytes.age < PROBE_SECONDS or now < self._probe_at
            if self.bytes.settled and waits:
                return False
            self._probe_at = now + PROBE_SECONDS
            return True


class Plan:
    """How much of one prompt is worth fetching; judged anew wherever it goes on, by what was measured
    meanwhile. Owned by one thread. sizes: as for ``Worth.blocks``, of the blocks from ``first`` on."""

    def __init__(self, worth: Worth, block_tokens: int, first: int, sizes: Sequence[int]) -> None:
        self._worth, self._block_tokens = worth, block_tokens
        self._first, self._sizes = first, sizes
        self.last = first + len(sizes)

    def end(self, first: int) -> int:
        """Where to stop who has got as far as ``first``."""
        sizes = self._sizes[first - self._first :]
        return first + self._worth.blocks(sizes, self._block_tokens)
