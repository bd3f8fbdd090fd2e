"""One writer a folder, and what a fork means for it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.tiers.files import Files, write_all


class Holder(Protocol):
    """Who holds a lock."""

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        ...


def take_lock(files: Files, folder: Path) -> int:
    """The descriptor that holds the writer's lock. Raises TierUnavailable if another has it."""
    fd = files.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        if not files.lock(fd):
            holder = files.read(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise TierUnavailable(
                Unavailable.IN_USE,
                f"{folder} is being written by process {holder}; close it there first, or open it "
                "beside it with read_only=True",
            )
        with suppress(OSError):  # the number is for people; a full disk must not stop an open
            files.cut(fd, 0)
            write_all(files, fd, [f"{os.getpid()}\n".encode()], 0)
    except BaseException:
        files.close(fd)
        raise
    return fd


# An open file description outlives its process in forked children, and the lock with it. So each
# child closes its copies.
_holders: WeakSet[Holder] = WeakSet()


def abandoned_in_children(holder: Holder) -> None:
    """From now on."""
    _holders.add(holder)


def _abandon_all() -> None:
    for holder in list(_holders):
        holder.abandon()


os.register_at_fork(after_in_child=_abandon_all)
