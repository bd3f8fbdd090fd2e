"""The pool of a model's device for beginnings of prompts: opened when first of use, given up where it
cannot be."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from blatam_kv.errors import DeviceUnavailable, Error
from blatam_kv.metrics import TierSnapshot

if TYPE_CHECKING:
    from blatam_kv.blocks import KVStore
    from blatam_kv.tiers import Tier
    from blatam_kv.tiers.gpu import GpuTier
    from blatam_kv.truthgpt.protocol import Tokens

log = logging.getLogger("blatam_kv.truthgpt")


class Near(Protocol):
    """What fills a model's cache from a device's memory: ``integrations.transformers.near.Near``."""

    def restore(self, cache: Any, store: KVStore, tokens: Tokens, *, reserve: int = 0) -> int:
        """Fill an empty cache; returns the tokens, 0 if it is still empty."""

    def snapshot(self) -> TierSnapshot:
        """For metrics."""

    def close(self) -> None:
        """Let go of the device's memory."""


OpenTier = Callable[["Tier"], "GpuTier"]


class Pool:
    """So many bytes of a device, or none. Thread-safe.

    device: of the model, as torch names it. open_tier: how its tier is opened, for tests. What is
    missing is said when this is made; afterwards prefixes go by the host's memory alone.
    """

    def __init__(
        self,
        pool_bytes: int,
        device: str,
        *,
        open_tier: OpenTier | None = None,
    ) -> None:
        self._device = device
        self._open = open_tier
        self._lock = threading.Lock()
        self._near: Near | None = None
        self.missing: str | None = "it was not asked for"
        if open_tier is not None:
            self.missing = None
        elif pool_bytes:
            self._open = _opener(pool_bytes, device)
            self.missing = _missing(device)
            if self.missing is not None:
                log.warning("no pool for prefixes on %s: %s", device, self.missing)

    def restore(
        self,
        cache: Any,
        store: KVStore,
        tokens: Tokens,
        *,
        reserve: int,
        near: Callable[[OpenTier, str], Near],
    ) -> int:
        """As ``Near.restore``; 0, and the cache empty, where there is no pool or it does not serve.

        near: how one is made on this device.
        """
        if self.missing is not None:
            return 0
        try:
            return self._opened(near).restore(cache, store, tokens, reserve=reserve)
        except (Error, RuntimeError, MemoryError) as error:
            log.warning("a prefix goes by the host's memory: %s", error)
            return 0

    def tiers(self) -> list[TierSnapshot]:
        """What is in it, once it is open."""
        near = self._near
        return [] if near is None else [near.snapshot()]

    def close(self) -> None:
        """Let go of the device's memory."""
        with self._lock:
            near, self._near = self._near, None
            self.missing = "it is closed"
        if near is not None:
            near.close()

    def _opened(self, near: Callable[[OpenTier, str], Near]) -> Near:
        # After the model's weights, which come first.
        with self._lock:
            if self._near is None:
                assert self._open is not None
                try:
                    self._near = near(self._open, self._device)
                except DeviceUnavailable as error:
                    self.missing = str(error)
                    raise
            return self._near


def _opener(pool_bytes: int, device: str) -> OpenTier:
    from blatam_kv.tiers.gpu import GpuTier

    return lambda below: GpuTier(below, capacity_bytes=pool_bytes, device=_number(device))


def _number(device: str) -> int:
    """Which GPU torch means."""
    number = device.partition(":")[2]
    return int(number) if number.isdecimal() else 0


def _missing(device: str) -> str | None:
    """Why there can be none; None if there can."""
    if device.partition(":")[0] != "cuda":
        return "the model runs elsewhere than on a CUDA device (--devices, --local-device)"
    from blatam_kv.cuda import probe

    return probe.status().reason
