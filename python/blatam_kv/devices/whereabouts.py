"""Which GPU has seen the beginning of which prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class Whereabouts:
    """Names of blocks, and the GPUs that were given them. Not for several threads at once.

    A name stands for a block and all before it, so GPUs that have a block have what leads to it. It
    is what was asked of them, not what their caches kept: ``most`` names are remembered, and those
    that were asked for longest ago go first, the ends of prompts before their beginnings.
    """

    def __init__(self, gpus: int, most: int) -> None:
        self._gpus = gpus
        self._most = most
        self._held: OrderedDict[bytes, int] = OrderedDict()  # name → a bit for each GPU

    def __len__(self) -> int:
        return len(self._held)

    def depths(self, names: Sequence[bytes]) -> list[int]:
        """For each GPU, how many of the names it has, from the first without a gap."""
        depths = [0] * self._gpus
        have = (1 << self._gpus) - 1
        for depth, name in enumerate(names):
            still = have & self._held.get(name, 0)
            if still != have:  # those who end here; mostly the others go on together
                for gpu in range(self._gpus):
                    if (have ^ still) >> gpu & 1:
                        depths[gpu] = depth
                have = still
            if not have:
                return depths
        for gpu in range(self._gpus):
            if have >> gpu & 1:
                depths[gpu] = len(names)
        return depths

    def note(self, names: Sequence[bytes], gpu: int) -> None:
        """The GPU is given a prompt that begins so."""
        held = self._held
        for name in reversed(names):  # the beginning last, so that it is forgotten last
            held[name] = held.get(name, 0) | 1 << gpu
            held.move_to_end(name)
        while len(held) > self._most:
            held.popitem(last=False)

    def forget(self, gpu: int) -> None:
        """The GPU may have lost what it had."""
        others = ~(1 << gpu)
        self._held = OrderedDict(
            (name, left) for name, have in self._held.items() if (left := have & others)
        )
