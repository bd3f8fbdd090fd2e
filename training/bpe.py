"""Learns the merges of a byte-level BPE from a corpus (Sennrich et al. 2016).

The words are counted once; after each merge only the words that held the pair are counted again.
Ties go to the smaller pair, so the same corpus always gives the same merges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from blatam_kv.truthgpt.tokenizer import WORDS


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[int, int]]:
    """The ``count`` most useful merges, in order; fewer if the corpus has no more pairs."""
    frequency: Counter[str] = Counter()
    for text in texts:
        frequency.update(match.group() for match in WORDS.finditer(text))
    words = [list(word.encode()) for word in frequency]
    weights = list(frequency.values())
    pairs: Counter[tuple[int, int]] = Counter()
    holders: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += weights[index]
            holders[pair].add(index)
    merges: list[tuple[int, int]] = []
    while len(merges) < count and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))
        if pairs[best] < 2:
            break
        merged = 256 + len(merges)
        merges.append(best)
        for index in holders.pop(best):
            old = words[index]
            new = _join(old, best, merged)
            for pair in pairwise(old):
                pairs[pair] -= weights[index]
                if pairs[pair] <= 0:
                    del pairs[pair]
            for pair in pairwise(new):
                pairs[pair] += weights[index]
                holders[pair].add(index)
            words[index] = new
    return merges


def _join(word: list[int], pair: tuple[int, int], merged: int) -> list[int]:
    out: list[int] = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(merged)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out
