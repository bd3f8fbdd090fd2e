"""A 5-gram model of the corpus, the yardstick for ``mini``: interpolated modified Kneser-Ney.

Chen and Goodman 1999, section 3, found this smoothing best of all they compared, and it is what
n-gram tool kits use. An n-gram of tokens is one integer, 11 bits a token, the oldest on top, so that
counting is sorting: dropping the oldest token is a mask, and all n-grams of one context lie together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = 11  # a token id is below 2048
ORDER = 5

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Row = tuple[list[int], int]


def events(rows: Iterable[Row]) -> Integers:
    """One packed 5-gram for each answer token, ending in it. rows: ids, and how many are prompt."""
    found = []
    for ids, prompt in rows:
        tokens = np.array(ids, np.int64)
        packed = np.zeros(len(ids) - prompt, np.int64)
        for back in range(ORDER - 1, -1, -1):
            packed = packed << BITS | tokens[prompt - back : len(ids) - back]
        found.append(packed)
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Order:
    """All n-grams of one length: what is left of each after discounting, and each context's rest."""

    grams: Integers  # sorted
    kept: Floats  # discounted count, over the count of the context
    contexts: Integers  # sorted
    rest: Floats  # the share that the context leaves to the shorter n-gram

    @classmethod
    def count(cls, grams: Integers, counts: Integers) -> Order:
        """grams: sorted and unique. counts: how often each occurs, or after how many tokens."""
        one, two, three, four = (max(1, int(np.sum(counts == n))) for n in (1, 2, 3, 4))
        share = one / (one + 2 * two)
        discounts = np.clip(
            [
                0,
                1 - 2 * share * two / one,
                2 - 3 * share * three / two,
                3 - 4 * share * four / three,
            ],
            [0.0, 0.1, 0.1, 0.1],
            [0.0, 1.0, 2.0, 3.0],
        )
        discount = discounts[np.minimum(counts, 3)]
        contexts, first, sizes = np.unique(grams >> BITS, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        return cls(
            grams=grams,
            kept=(counts - discount) / np.repeat(totals, sizes),
            contexts=contexts,
            rest=np.add.reduceat(discount, first) / totals,
        )

    def refine(self, wanted: Integers, shorter: Floats) -> Floats:
        """Probabilities of these n-grams' last tokens, given those that one token less gives."""
        rest = _look_up(self.contexts, self.rest, wanted >> BITS, missing=1.0)
        return _look_up(self.grams, self.kept, wanted, missing=0.0) + rest * shorter


class NGram:
    """The whole model, orders 1 to 5 over the uniform distribution."""

    def __init__(self, rows: Iterable[Row], *, vocab: int) -> None:
        self._uniform = 1.0 / vocab
        grams, counts = np.unique(events(rows), return_counts=True)
        self._orders = [Order.count(grams, counts)]
        for order in range(ORDER - 1, 0, -1):
            # Below the top, what counts is after how many different tokens an n-gram was seen.
            grams, counts = np.unique(_last(grams, order), return_counts=True)
            self._orders.insert(0, Order.count(grams, counts))

    def probabilities(self, wanted: Integers) -> Floats:
        """The probability of each packed 5-gram's last token after the four before it."""
        found = np.full(len(wanted), self._uniform)
        for length, order in enumerate(self._orders, start=1):
            found = order.refine(_last(wanted, length), found)
        return found

    def loss(self, rows: Iterable[Row]) -> float:
        """Nats per answer token."""
        return float(-np.log(self.probabilities(events(rows))).mean())


def _last(grams: Integers, tokens: int) -> Integers:
    return grams & ((1 << BITS * tokens) - 1)


def _look_up(keys: Integers, values: Floats, wanted: Integers, *, missing: float) -> Floats:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing)
