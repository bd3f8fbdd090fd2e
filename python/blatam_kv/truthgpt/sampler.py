"""Chooses the next token from logits: temperature, nucleus, and a seed that decides all chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from blatam_kv.truthgpt.protocol import FloatArray, Sampling


class Sampler:
    """One generation's choices. The same seed and logits give the same tokens.

    Source of the nucleus: Holtzman et al. 2020. Chance comes from Philox (Salmon et al. 2011),
    whose stream numpy keeps stable across versions.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._chance = np.random.Generator(np.random.Philox(sampling.seed))

    def choose(self, logits: FloatArray) -> int:
        """A token id; the most likely one at temperature 0. logits: ``[vocab]``."""
        if self._temperature == 0.0:
            return int(logits.argmax())
        scaled = (logits.astype(np.float64) - float(logits.max())) / self._temperature
        weights = np.exp(scaled)
        total = float(weights.sum())
        # Lighter tokens make up less than 1 - top_p all together, so none of them is needed.
        heavy = np.flatnonzero(weights >= (1.0 - self._top_p) * total / len(weights))
        order = heavy[np.argsort(-weights[heavy], kind="stable")]
        mass = np.cumsum(weights[order])
        # The shortest head whose mass reaches top_p; at least the first token.
        kept = min(int(np.searchsorted(mass, self._top_p * total)) + 1, len(order))
        drawn = self._chance.random() * mass[kept - 1]
        return int(order[min(int(np.searchsorted(mass, drawn, side="right")), kept - 1)])


# Longer loops are rare, and a text may well repeat a sentence.
LONGEST_LOOP = 16


def third_times(tokens: Sequence[int], wordy: Callable[[int], bool]) -> list[int]:
    """Tokens that would complete the same words said three times running.

    A small network that loses its way falls into such a loop and never leaves it. The loop is cut
    by taking that one token out of the draw; what is said instead is the network's own choice.
    wordy: whether a token holds a letter. Rules, table borders and zeros may repeat.
    """
    found = []
    for size in range(1, min(LONGEST_LOOP, (len(tokens) + 1) // 3) + 1):
        once = tokens[len(tokens) - (3 * size - 1) : len(tokens) - (2 * size - 1)]
        twice = tokens[len(tokens) - (2 * size - 1) : len(tokens) - (size - 1)]
        thrice = tokens[len(tokens) - (size - 1) :]
        if once == twice and once[:-1] == thrice and any(wordy(token) for token in once):
            found.append(once[-1])
    return found
