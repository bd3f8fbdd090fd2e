"""What the kernels of a load are told, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blatam_kv.cuda.cuts import Form
from blatam_kv.tiers.sources import Layer


class Control:
    """What the kernels of a load are told, in one piece of the device's memory: slots; then for each
    layer and launch where payloads begin, their sizes (uint64 both) and their faults (uint32), by block
    and tensor."""

    def __init__(self, form: Form, blocks: int, tokens: int) -> None:
        self._form, self._blocks = form, blocks
        self._slots_bytes = 8 * blocks * tokens
        # One launch for both or one for each: as many words, but for what fills up faults.
        self._layer_words = 2 * self._group_words(1)

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return self._slots_bytes + 8 * self._layer_words * (len(self._form.schemes) // 2)

    def begin(self, layer: int) -> int:
        """Where a layer's begin."""
        return self._slots_bytes + 8 * self._layer_words * layer

    def groups(self, tensors: Sequence[int]) -> list[Sequence[int]]:
        """The tensors of each launch: those of one scheme."""
        schemes = self._form.schemes
        if schemes[tensors[0]] == schemes[tensors[1]]:
            return [tensors]
        return [[tensor] for tensor in tensors]

    def words(self, first: int, tensor: int) -> int:
        """How many words of the layer come before the launch that begins with a tensor."""
        return self._group_words(tensor - first)

    def room(self, layer: Layer, group: Sequence[int]) -> int:
        """The largest payload of a launch."""
        return int(layer.sizes[:, [tensor % 2 for tensor in group]].max())

    def table(self, layer: Layer, tensors: Sequence[int]) -> npt.NDArray[np.uint64]:
        """A layer's words."""
        words = np.zeros(self._layer_words, np.uint64)
        for group in self.groups(tensors):
            which = [tensor % 2 for tensor in group]
            at, count = self.words(tensors[0], group[0]), len(group) * self._blocks
            words[at : at + count] = layer.places[:, which].reshape(-1)
            words[at + count : at + 2 * count] = layer.sizes[:, which].reshape(-1)
        return words

    def faults(self, report: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.uint32]:
        """Of each block the faults that a layer had."""
        begin = self.begin(layer)
        words = report[begin : begin + 8 * self._layer_words].view(np.uint64)
        found = np.zeros(self._blocks, np.uint32)
        tensors = (2 * layer, 2 * layer + 1)
        for group in self.groups(tensors):
            count = len(group) * self._blocks
            at = self.words(tensors[0], group[0]) + 2 * count
            faults = words[at:].view(np.uint32)[:count].reshape(self._blocks, len(group))
            found |= np.bitwise_or.reduce(faults, axis=1)
        return found

    def _group_words(self, tensors: int) -> int:
        count = tensors * self._blocks
        return 2 * count + (count + 1) // 2
