"""Loading layer by layer: the first can be computed with while the last is still being decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Self

from blatam_kv.blocks.block import Block
from blatam_kv.blocks.payload import Packing
from blatam_kv.errors import CorruptBlob, Unsupported


class LayerLoad:
    """A prefix on its way into the caller's tensors, decoded by a thread of its own.

    tokens: how many leading tokens will be there, a multiple of ``block_tokens``. The tensors are
    the loader's until ``wait`` has returned for the last layer or the load is closed::

        with store.load_layers(tokens, out=(keys, values)) as load:
            for layer in range(layers):
                load.wait(layer)
                compute(layer, keys[layer, : load.tokens], values[layer, : load.tokens])

    Each layer is verified before ``wait`` returns for it. A block that turns out damaged further up
    is found only then: what was computed from lower layers was right, but the rest will not come.
    """

    def __init__(
        self,
        packing: Packing,
        blocks: Sequence[Block],
        out: tuple[Any, Any],
        damaged: Callable[[Block], None],
    ) -> None:
        self.tokens = len(blocks) * packing.layout.block_tokens
        self._packing, self._blocks, self._out = packing, blocks, out
        self._damaged = damaged
        self._changed = threading.Condition()
        self._done = 0
        self._error: CorruptBlob | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="kv-layers", daemon=True)
        self._thread.start()

    def wait(self, layer: int, timeout: float | None = None) -> int:
        """Return ``tokens`` when this layer's keys and values are there.

        timeout: most seconds to wait. Raises CorruptBlob if a block is damaged, TimeoutError, and
        IndexError for a layer that the model does not have or of a load that was closed.
        """
        if not 0 <= layer < self._packing.layout.layers:
            raise IndexError(f"layers go from 0 to {self._packing.layout.layers - 1}, not {layer}")
        with self._changed:
            there = self._changed.wait_for(lambda: self._done > layer or self._over, timeout)
            if self._done > layer:
                return self.tokens
            if self._error is not None:
                raise self._error
        if there:
            raise IndexError(f"the load was closed before layer {layer}")
        raise TimeoutError(f"layer {layer} is not there after {timeout} seconds")

    def close(self) -> None:
        """Stop after the layer at hand; the tensors are the caller's again."""
        with self._changed:
            self._stopped = True
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _over(self) -> bool:
        return self._error is not None or self._stopped

    def _run(self) -> None:
        packing, blocks, (keys, values) = self._packing, self._blocks, self._out
        size = packing.layout.block_tokens
        ends, seconds = [0] * len(blocks), [0.0] * len(blocks)
        for layer in range(packing.layout.layers):
            for number, block in enumerate(blocks):
                if self._stopped:
                    break
                began = perf_counter()
                try:
                    ends[number] = packing.decode_layer(
                        block.payload, ends[number], layer, keys, values, number * size
                    )
                except (CorruptBlob, Unsupported) as error:
                    self._damaged(block)
                    with self._changed:
                        self._error = CorruptBlob(f"block {number} of the prefix: {error}")
                        self._changed.notify_all()
                    return
                seconds[number] += perf_counter() - began
            with self._changed:
                if self._stopped:
                    self._changed.notify_all()
                    return
                self._done = layer + 1
                self._changed.notify_all()
        for took, end in zip(seconds, ends, strict=True):
            packing.work["decode"].did(took, raw=packing.layout.block_bytes, encoded=end)
