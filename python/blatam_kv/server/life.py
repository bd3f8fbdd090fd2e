"""Tells systemd that a service is ready, and that it lives; to nobody where systemd did not ask.

The sign comes from the event loop itself, so a process that is paused, and a loop that hangs, give
none. systemd ends what gives none (``WatchdogSec``), and that is what its callers need: a process that is
paused keeps their connections and says nothing, one that has ended has them asked of the next node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

log = logging.getLogger("blatam_kv.server")


def begin() -> asyncio.Task[None] | None:
    """Say that the service is ready, and from now on that it lives, if somebody wants to know; call it in
    the event loop and keep what it returns."""
    if not _say("READY=1"):
        return None
    seconds = _seconds()
    return None if seconds is None else asyncio.create_task(_go_on(seconds / 3), name="life")


def stopping() -> None:
    """Say that it is ending."""
    _say("STOPPING=1")


async def _go_on(seconds: float) -> None:
    while True:
        _say("WATCHDOG=1")
        await asyncio.sleep(seconds)


def _seconds() -> float | None:
    """How long a sign may be missing; None where nobody counts, or it is another process that is meant."""
    wanted, whose = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or int(wanted) == 0 or whose not in ("", str(os.getpid())):
        return None
    return int(wanted) / 1e6


def _say(what: str) -> bool:
    """Whether somebody was told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.connect(path if path[0] == "/" else f"\0{path[1:]}")
            line.send(what.encode())
    except OSError as error:
        log.warning("NOTIFY_SOCKET cannot be told: %s", error)
        return False
    return True
