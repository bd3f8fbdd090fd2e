"""A client that leaves while its answer is made: nobody goes on with what nobody will hear."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def unless_left(receive: Receive, made: Coroutine[Any, Any, T]) -> T:
    """What is made, or ClientDisconnect where the client went first; it is cancelled then.

    receive: of a request whose body was read.
    """
    making = asyncio.ensure_future(made)
    left = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((making, left), return_when=asyncio.FIRST_COMPLETED)
        if not making.done():
            raise ClientDisconnect
        return making.result()
    finally:
        for each in (making, left):
            each.cancel()
        await asyncio.gather(making, left, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
