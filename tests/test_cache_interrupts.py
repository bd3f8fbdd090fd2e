"""Ctrl-C between any two lines of a computation: who asks next computes, and nobody waits for ever."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import blatam_kv as kv
import blatam_kv.cache
import blatam_kv.flights
from blatam_kv.flights import computing

OURS = {blatam_kv.cache.__file__, blatam_kv.flights.__file__}


def interrupted(cache: kv.Cache[str, int], at: int) -> bool:
    """Compute, with a KeyboardInterrupt before the line of ours of that number; False beyond the last."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in OURS:
            return None
        if event in ("call", "line"):
            seen += 1
            if seen == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        cache.get_or_compute("k", lambda: 1)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return seen >= at


def test_an_interrupt_leaves_no_flight_that_nobody_lands() -> None:
    at = 0
    while True:
        cache: kv.Cache[str, int] = kv.Cache(capacity=10)
        at += 1
        if not interrupted(cache, at):
            break
        assert not cache._flights._under_way, f"line {at}: the others would wait for ever"
        assert cache.get_or_compute("k", lambda: 2) in (1, 2)
    assert at > 20
    computing.set(())
