"""When what was used is used again, and what keeping it is worth: csrc/core/life_table.h."""

from __future__ import annotations

from collections.abc import Iterable

BINS = 124
GROUPS = 8
LEAN = 16.0


def bin_of(age: int) -> int:
    """Four bins to a doubling, exact below eight."""
    shift = max(0, age.bit_length() - 3)
    return 4 * shift + (age >> shift) if age >= 8 else age


def width_of(bin: int) -> float:
    return 1.0 if bin < 8 else float(1 << (bin // 4 - 1))


def untrained(bin: int) -> float:
    """By the first age of the bin."""
    return 1.0 / ((bin if bin < 8 else width_of(bin) * (4 + bin % 4)) + 1)


def total(numbers: Iterable[float]) -> float:
    """One by one, as the core adds; ``sum`` is more exact since Python 3.12."""
    result = 0.0
    for number in numbers:
        result += number
    return result


class LifeTable:
    def __init__(self) -> None:
        self.cases_used = [[0.0] * BINS for _ in range(GROUPS)]
        self.cases_forgotten = [[0.0] * BINS for _ in range(GROUPS)]
        self.worth = [[untrained(bin) for bin in range(BINS)] for _ in range(GROUPS)]

    def learn(self, living: list[list[int]]) -> None:
        at_risk = [[0.0] * BINS for _ in range(GROUPS)]
        for group in range(GROUPS):
            reached = 0.0
            for bin in reversed(range(BINS)):
                censored = self.cases_forgotten[group][bin] + living[group][bin]
                reached += self.cases_used[group][bin] + censored
                at_risk[group][bin] = reached - censored / 2
        everyone = [total(at_risk[group][bin] for group in range(GROUPS)) for bin in range(BINS)]
        used = [sum(self.cases_used[group][bin] for group in range(GROUPS)) for bin in range(BINS)]
        ages = max([bin + 1 for bin in range(BINS) if everyone[bin] > 0], default=1)
        average = [used[bin] / everyone[bin] if everyone[bin] > 0 else 0.0 for bin in range(ages)]
        for group in range(GROUPS):
            expected = total(at_risk[group][bin] * average[bin] for bin in range(ages))
            ratio = (LEAN + sum(self.cases_used[group][:ages])) / (LEAN + expected)
            hazard = [
                min(
                    1.0,
                    (self.cases_used[group][bin] + LEAN * average[bin] * ratio)
                    / (at_risk[group][bin] + LEAN),
                )
                for bin in range(ages)
            ]
            for age in range(BINS):
                known = most_hits_for_time(hazard[min(age, ages - 1) :], age, ages)
                self.worth[group][age] = max(known, 2.0**-100 * untrained(age))

    def fade(self) -> None:
        for table in (self.cases_used, self.cases_forgotten):
            for group, cases in enumerate(table):
                table[group] = [number / 2 for number in cases]


def most_hits_for_time(hazard: list[float], age: int, ages: int) -> float:
    """Kept for how long does it bring most hits for each unit of time?"""
    alive, hits, held, best = 1.0, 0.0, 0.0, 0.0
    for bin, chance in enumerate(hazard, start=min(age, ages - 1)):
        hit = alive * chance
        held += (alive - hit / 2) * width_of(bin)
        hits += hit
        alive -= hit
        best = max(best, hits / held)
    return best
