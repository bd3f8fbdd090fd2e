"""The memory of one device that is ours, and the way there and back, with errors for codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from blatam_kv import _core
from blatam_kv._core import DevicePiece, Mark
from blatam_kv.cuda import probe
from blatam_kv.cuda.arrangement import ELEMENTS, device_error
from blatam_kv.cuda.layouts import PagedCache
from blatam_kv.errors import ConfigError, DeviceTrouble, DeviceUnavailable, InvalidRequest

HOST = -1
BUFFERS, BUFFER_BYTES = 4, 4 << 20

# Codes of csrc/cuda/paged.h.
_FULL, _TOO_SMALL, _OUT_OF_MEMORY, _OUTSIDE = 21, 22, 23, 24
_CUDA_ERROR = 1000


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has gone over a bus since the start, and what is under way.

    up_waits: how often a copy up found no buffer free. up_busy, down_busy: buffers with a copy under
    way, of the ``buffers`` that each direction has.
    """

    up_bytes: int
    down_bytes: int
    up_waits: int
    up_busy: int
    down_busy: int
    buffers: int


class Bus:
    """A pool of device memory, pinned buffers each way, and streams. Thread-safe.

    pool_bytes: all that it ever takes of the device, and takes now. device: its number, or -1 for the
    host, whose memory is then the pool and whose threads are the streams. buffers, buffer_bytes: of
    pinned memory, for each direction. lazy: of a host bus: do nothing before somebody waits for it,
    for tests.

    Whatever is done with a piece is ordered after all that was done with it before, and its memory is
    taken again only when all of it has passed (csrc/cuda/bus.h).

    Raises DeviceUnavailable where there is no such device or not so much memory, ConfigError for
    sizes that nothing fits into. Of the calls below each may raise DeviceUnavailable.
    """

    def __init__(
        self,
        pool_bytes: int,
        *,
        device: int,
        buffers: int = BUFFERS,
        buffer_bytes: int = BUFFER_BYTES,
        lazy: bool = False,
    ) -> None:
        for name, value in (("pool_bytes", pool_bytes), ("buffer_bytes", buffer_bytes)):
            if not 0 <= value < 2**62:
                raise ConfigError(f"{name} must be from 0 to 2**62 - 1, not {value}")
        if not 0 <= buffers < 2**16:
            raise ConfigError(f"buffers must be from 0 to 2**16 - 1, not {buffers}")
        self._module = _HOST_MODULE
        if device == HOST:
            code, bus = _core.open_host_bus(pool_bytes, buffers, buffer_bytes, lazy)
        else:
            probe.status().require()
            self._module = probe.module()
            code, bus = self._module.open_bus(device, pool_bytes, buffers, buffer_bytes)
        if code == _TOO_SMALL:
            raise ConfigError(self._module.text(code))
        self._check(code)
        assert bus is not None
        self._bus: _core.Bus = bus
        self.device = device

    @staticmethod
    def rounded(size: int) -> int:
        """What a piece of so many bytes takes."""
        return _core.Bus.rounded(size)

    @property
    def pool_bytes(self) -> int:
        """Of the pool."""
        return self._bus.pool_bytes

    @property
    def taken_bytes(self) -> int:
        """What is in use, or was and may still be."""
        return self._bus.taken_bytes

    @property
    def broken(self) -> bool:
        """Whether every later call is refused: work was queued of which nobody knows when it ends, or
        it is closed."""
        return self._bus.broken != 0

    def traffic(self) -> Traffic:
        """Takes no lock that a copy holds."""
        return Traffic(*self._bus.traffic())

    def take(self, size: int, *, wait: bool) -> DevicePiece | None:
        """Memory with unspecified content, given back with the object; None if there is no room.

        wait: for what was given back while it was in use.
        """
        code, piece = self._bus.take(size, wait)
        if code != _FULL:
            self._check(code)
        return piece

    def up(self, parts: Sequence[tuple[Any, DevicePiece, int]]) -> Mark:
        """Copy buffers to places in pieces. They are the caller's again when this returns."""
        code, mark = self._bus.up(parts)
        self._check(code)
        return mark

    def down(self, piece: DevicePiece, at: int, out: Any) -> None:
        """Fill a buffer from a piece, and wait for it."""
        self._check(self._bus.down(piece, at, out))

    def run(
        self,
        cache: PagedCache,
        *,
        store: bool,
        scheme: int,
        tokens: int,
        seed: int,
        blocks: int,
        tensors: Any,
        slots: int,
        payloads: int,
        sizes: int,
        faults: int,
        stride: int,
        room: int,
        places: int,
        pieces: Sequence[DevicePiece],
    ) -> Mark:
        """Queue one launch on the bus's own stream; see Job in csrc/cuda/paged.h for the rest.

        pieces: where all its memory but the cache lies.
        """
        code, mark = self._bus.run(
            store,
            pieces,
            places,
            scheme,
            ELEMENTS.index(cache.element),
            (tokens, cache.kv_heads, cache.head_dim),
            (cache.block_tokens, cache.run, cache.slots),
            (cache.block_bytes, cache.token_bytes, cache.head_bytes, cache.run_bytes),
            seed,
            blocks,
            tensors,
            (slots, payloads, sizes, faults),
            stride,
            room,
        )
        self._check(code)
        return mark

    def follow(self, stream: int) -> None:
        """Let the bus's own stream wait for what another was given."""
        self._check(self._bus.follow(stream))

    def hold(self, mark: Mark, stream: int) -> None:
        """Let a stream wait for a mark; on the host stream 0 is the thread that calls."""
        self._check(mark.hold(stream))

    def lend(self, pieces: Sequence[DevicePiece], stream: int) -> None:
        """Let a stream wait until pieces hold what was written to them."""
        self._check(self._bus.lend(pieces, stream))

    def lent(self, pieces: Sequence[DevicePiece], stream: int) -> None:
        """That stream uses them in what it was given."""
        self._check(self._bus.lent(pieces, stream))

    def close(self) -> None:
        """Wait for what is under way; nothing of it touches anybody's memory any more. Later work is
        refused, and pieces stay until they are given back."""
        self._bus.close()

    @property
    def address(self) -> int:
        """Of the pool."""
        return self._bus.address

    def fail_after(self, calls: int, code: int, *, forever: bool) -> None:
        """Of a host bus, for tests: let a call of its runtime fail, or all from then on."""
        self._bus.fail_after(calls, code, forever)

    def _check(self, code: int) -> None:
        if code == 0:
            return
        text = self._module.text(code)
        if code >= _CUDA_ERROR:
            raise probe.error_of(self._module, code)
        if code == _OUT_OF_MEMORY:
            raise DeviceUnavailable(DeviceTrouble.OUT_OF_MEMORY, text)
        if code == _OUTSIDE:
            raise InvalidRequest(text, field="at")
        raise device_error(code, text)


_HOST_MODULE = cast(ModuleType, SimpleNamespace(CUDA_ERROR=_CUDA_ERROR, text=_core.paged_text))


def chosen(device: int | str) -> tuple[int, str | None]:
    """The device that "auto", "host" or a number stands for, and why it is not a GPU.

    "auto": the first GPU, or the host where there is none that can be used. A number is taken at its
    word. Raises ConfigError for anything else.
    """
    if device == "auto":
        found = probe.status()
        return (HOST, found.reason) if found.trouble is not None else (0, None)
    if device == "host":
        return HOST, "as asked"
    if isinstance(device, bool) or not isinstance(device, int) or not 0 <= device < 2**31:
        raise ConfigError(f"device must be the number of a GPU, 'auto' or 'host', not {device!r}")
    return device, None
