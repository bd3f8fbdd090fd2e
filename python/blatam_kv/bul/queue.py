"""The queue of what waits to be written: most urgent first, fair between tenants, bounded.

Five levels. Who comes enters the level of its priority, 0 (critical) to 4 (background), and rises
one level for each ``ageing_seconds`` it has waited, so the least urgent waits long but not for
ever. Within a level tenants take turns, and each tenant's own come in the order in which they
entered the level. A tenant may hold only its share of the places: whoever floods the queue is
refused while others still find room.

Time passes only when somebody looks: every call first does what has fallen due by now (rises,
returns, deadlines), in the order of its times. All of it is O(log n) for each entry, once.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Generic, TypeVar

from blatam_kv.errors import Error

T = TypeVar("T")


class Priority(IntEnum):
    """How urgent, lower sooner; the original's names."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4


class QueueFull(Error, RuntimeError):
    """All places, or those of this tenant, are taken."""


class _State(Enum):
    HELD = "not to be taken before release()"
    LATER = "not to be taken before its time"
    WAITING = "in a lane"
    GONE = "taken, removed or expired"


class _Due(IntEnum):
    """What falls due; of one ticket at one moment, the first of these comes first."""

    EXPIRES = 0
    RETURNS = 1
    RISES = 2


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """A place in the queue. Everything but ``item`` and ``tenant`` belongs to the queue.

    since: when its waiting began, on the queue's clock. deadline: on the same clock; at that moment
    it leaves, None for never.
    """

    item: T
    tenant: str
    priority: int
    since: float
    deadline: float | None
    number: int
    state: _State = _State.HELD
    level: int = 0
    returns: float | None = None
    rises: float | None = None


# One tenant's tickets in one level, in the order in which they are taken.
_Lane = OrderedDict[int, Ticket[T]]


class PriorityQueue(Generic[T]):
    """Tickets, most urgent first. Safe from any thread.

    capacity: places in all. tenant_capacity: places that one tenant may hold. ageing_seconds: what
    is waited for each level of rise. clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        capacity: int,
        tenant_capacity: int | None = None,
        ageing_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if capacity < 1 or (tenant_capacity is not None and tenant_capacity < 1):
            raise ValueError("capacity and tenant_capacity must be at least 1")
        if ageing_seconds <= 0:
            raise ValueError(f"ageing_seconds must be above 0, not {ageing_seconds}")
        self._capacity = capacity
        self._tenant_capacity = min(capacity, tenant_capacity or capacity)
        self._ageing = ageing_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        # Each level: its lanes by tenant, in the order of the tenants' turns.
        self._levels: list[OrderedDict[str, _Lane[T]]] = [OrderedDict() for _ in Priority]
        self._by_tenant: dict[str, int] = {}
        self._by_priority = [0] * len(Priority)
        # (time, ticket number, what, ticket); one that was overtaken by events is left and skipped.
        self._due: list[tuple[float, int, _Due, Ticket[T]]] = []
        self._expired: list[T] = []
        self._paused = self._closed = False

    def push(
        self,
        item: T,
        *,
        tenant: str,
        priority: int,
        deadline: float | None = None,
        waited: float = 0.0,
        held: bool = False,
        bounded: bool = True,
    ) -> Ticket[T]:
        """Take a place. Raises QueueFull, and then nothing has changed.

        waited: seconds waited before, in another process. held: the place is taken, but nobody is
        served from it before ``release``. bounded: False for what was promised a place before.
        """
        with self._changed:
            now = self._advance()
            mine, total = self._by_tenant.get(tenant, 0), len(self)
            if bounded and total >= self._capacity:
                raise QueueFull(f"{total} documents are waiting already")
            if bounded and mine >= self._tenant_capacity:
                raise QueueFull(f"{mine} documents of yours are waiting already")
            ticket = Ticket(
                item, tenant, Priority(priority), now - waited, deadline, next(self._numbers)
            )
            self._count(ticket, 1)
            self._watch_deadline(ticket)
            if not held:
                self._enter(ticket, now)
            return ticket

    def release(self, ticket: Ticket[T]) -> None:
        """Let a held ticket be taken. One that has left meanwhile stays away."""
        with self._changed:
            now = self._advance()
            if ticket.state is _State.HELD:
                self._enter(ticket, now)

    def put_back(self, ticket: Ticket[T], *, seconds: float) -> None:
        """A taken ticket returns after ``seconds``, as old as it is. It needs no free place."""
        with self._changed:
            now = self._advance()
            ticket.state = _State.LATER
            ticket.returns = now + seconds
            self._count(ticket, 1)
            self._watch_deadline(ticket)
            self._schedule(ticket.returns, ticket, _Due.RETURNS)
            self._changed.notify()

    def join(self, ticket: Ticket[T], *, priority: int, deadline: float | None = None) -> None:
        """Somebody else waits for the same: the more urgent priority and the later deadline hold."""
        with self._changed:
            now = self._advance()
            if ticket.state is _State.GONE:
                return
            if deadline is None or ticket.deadline is None:
                ticket.deadline = None
            elif deadline > ticket.deadline:
                ticket.deadline = deadline
                self._watch_deadline(ticket)
            if priority < ticket.priority:
                self._count(ticket, -1)
                ticket.priority = Priority(priority)
                self._count(ticket, 1)
                if ticket.state is _State.WAITING and self._level(ticket, now) < ticket.level:
                    self._leave_lane(ticket)
                    self._enter(ticket, now)

    def take(self, *, timeout: float | None = None) -> Ticket[T] | None:
        """The next in turn; None after ``timeout`` seconds without one, or once it is closed."""
        with self._changed:
            until = None if timeout is None else self._clock() + timeout
            while not self._closed:
                now = self._advance()
                ticket = None if self._paused else self._next()
                if ticket is not None:
                    self._leave_lane(ticket)
                    self._forget(ticket)
                    return ticket
                if until is not None and now >= until:
                    return None
                # A return is the one thing due that brings somebody to take.
                moments = [self._due[0][0]] if self._due else []
                moments += [] if until is None else [until]
                self._changed.wait(max(0.0, min(moments) - now) if moments else None)
            return None

    def remove(self, ticket: Ticket[T]) -> bool:
        """Give a place up; False if the ticket had left it already."""
        with self._changed:
            self._advance()
            if ticket.state is _State.GONE:
                return False
            if ticket.state is _State.WAITING:
                self._leave_lane(ticket)
            self._forget(ticket)
            return True

    def expired(self) -> list[T]:
        """What has passed its deadline and left since the last call."""
        with self._changed:
            self._advance()
            found, self._expired = self._expired, []
            return found

    def position(self, ticket: Ticket[T]) -> int | None:
        """1 for the next to be taken if nothing else happens; None for one not in line."""
        with self._changed:
            self._advance()
            if ticket.state is not _State.WAITING:
                return None
            before = sum(
                len(lane) for lanes in self._levels[: ticket.level] for lane in lanes.values()
            )
            lanes = self._levels[ticket.level]
            index = list(lanes[ticket.tenant]).index(ticket.number)
            rounds = index + 1  # lanes whose turn comes earlier are served once more
            for tenant, lane in lanes.items():
                if tenant == ticket.tenant:
                    before += index
                    rounds = index
                else:
                    before += min(len(lane), rounds)
            return before + 1

    def pause(self) -> None:
        """Nobody is served until ``resume``; coming, rising and expiring go on."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """End a pause."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def close(self) -> None:
        """From now on ``take`` returns None. What waits stays where it is."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def closed(self) -> bool:
        return self._closed

    def depths(self) -> dict[int, int]:
        """Places taken, by the priority asked for."""
        with self._changed:
            self._advance()
            return dict(enumerate(self._by_priority))

    def __len__(self) -> int:
        return sum(self._by_priority)

    # Below, the lock is held.

    def _advance(self) -> float:
        """Do what has fallen due; returns the time it is."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            moment, _, due, ticket = heapq.heappop(self._due)
            if not self._holds(moment, due, ticket):
                continue
            if ticket.state is _State.WAITING:
                self._leave_lane(ticket)
            if due is _Due.EXPIRES:
                self._forget(ticket)
                self._expired.append(ticket.item)
            else:
                self._enter(ticket, moment)
        return now

    def _enter(self, ticket: Ticket[T], now: float) -> None:
        """Go to the end of the lane that the ticket's age gives it."""
        ticket.state = _State.WAITING
        ticket.level = self._level(ticket, now)
        lanes = self._levels[ticket.level]
        lanes.setdefault(ticket.tenant, OrderedDict())[ticket.number] = ticket
        ticket.rises = self._rise(ticket, ticket.level) if ticket.level > 0 else None
        if ticket.rises is not None:
            self._schedule(ticket.rises, ticket, _Due.RISES)
        self._changed.notify()

    def _level(self, ticket: Ticket[T], now: float) -> int:
        level: int = ticket.priority
        while level > 0 and self._rise(ticket, level) <= now:
            level -= 1
        return level

    def _rise(self, ticket: Ticket[T], level: int) -> float:
        """When the ticket leaves that level for the one above."""
        return ticket.since + (ticket.priority - level + 1) * self._ageing

    def _leave_lane(self, ticket: Ticket[T]) -> None:
        lanes = self._levels[ticket.level]
        lane = lanes[ticket.tenant]
        del lane[ticket.number]
        if not lane:
            del lanes[ticket.tenant]

    def _next(self) -> Ticket[T] | None:
        """Whose turn it is; its tenant's next turn comes after those of the others."""
        for lanes in self._levels:
            if lanes:
                tenant, lane = next(iter(lanes.items()))
                lanes.move_to_end(tenant)
                return next(iter(lane.values()))
        return None

    def _forget(self, ticket: Ticket[T]) -> None:
        ticket.state = _State.GONE
        self._count(ticket, -1)

    def _count(self, ticket: Ticket[T], change: int) -> None:
        self._by_priority[ticket.priority] += change
        left = self._by_tenant.get(ticket.tenant, 0) + change
        self._by_tenant[ticket.tenant] = left
        if left == 0:
            del self._by_tenant[ticket.tenant]

    def _watch_deadline(self, ticket: Ticket[T]) -> None:
        if ticket.deadline is not None:
            self._schedule(ticket.deadline, ticket, _Due.EXPIRES)

    def _schedule(self, moment: float, ticket: Ticket[T], due: _Due) -> None:
        if len(self._due) > 64 + 8 * len(self):
            # Most of it is about tickets that are gone: without them, or they would pile up.
            self._due = [entry for entry in self._due if self._holds(entry[0], *entry[2:])]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (moment, ticket.number, due, ticket))

    @staticmethod
    def _holds(moment: float, due: _Due, ticket: Ticket[T]) -> bool:
        """Whether that is still to happen to the ticket then."""
        if due is _Due.EXPIRES:
            return ticket.deadline == moment and ticket.state is not _State.GONE
        if due is _Due.RETURNS:
            return ticket.returns == moment and ticket.state is _State.LATER
        return ticket.rises == moment and ticket.state is _State.WAITING
