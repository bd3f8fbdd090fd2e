"""Shelves by price, in octaves: csrc/core/prices.h."""

from __future__ import annotations

import math
from collections.abc import Callable

SHELVES = 16


def octave_of(price: float) -> int:
    return max(-128, math.frexp(price)[1] - 1) if price > 0 else -128


class Prices:
    def __init__(self) -> None:
        self.octaves: list[int] = []
        self.prices: list[float] = []

    def shelf_of(self, octave: int) -> int:
        """Its own, or the nearest; of two the first."""
        return min(range(len(self.octaves)), key=lambda shelf: abs(self.octaves[shelf] - octave))

    def put(self, price: float, is_empty: Callable[[int], bool]) -> None:
        octave = octave_of(price)
        if octave not in self.octaves:
            empty = [shelf for shelf in range(len(self.octaves)) if is_empty(shelf)]
            if len(self.octaves) < SHELVES:
                self.octaves.append(octave)
                self.prices.append(price)
            elif empty:
                self.octaves[empty[0]] = octave
                self.prices[empty[0]] = price
        shelf = self.shelf_of(octave)
        self.prices[shelf] += (price - self.prices[shelf]) / 16
