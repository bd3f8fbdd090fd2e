"""The queue against a slow list of tickets that does everything by looking at all of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from blatam_kv.bul.queue import PriorityQueue, QueueFull, Ticket

CAPACITY, TENANT_CAPACITY, AGEING = 9, 5, 10.0


class Clock:
    """Seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- the reference ------------------------------------------------------------------------------


@dataclass(eq=False)
class Entry:
    """One ticket of the reference. entered: when, in the order of all events, it got its level."""

    item: str
    tenant: str
    priority: int
    since: float
    deadline: float | None
    number: int
    state: str = "held"
    returns: float = 0.0
    level: int = 0
    entered: int = 0


class Reference:
    """The same queue with no structure at all."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []  # all that hold a place
        self.expired: list[str] = []
        self.turns: dict[tuple[int, str], int] = {}  # of tenants with something in that level
        self.count = 0

    def tick(self) -> int:
        self.count += 1
        return self.count

    def level(self, entry: Entry, now: float) -> int:
        passed = [k for k in range(1, 5) if entry.since + k * AGEING <= now]
        return max(0, entry.priority - len(passed))

    def line(self, level: int, tenant: str) -> list[Entry]:
        found = [
            entry
            for entry in self.entries
            if (entry.state, entry.level, entry.tenant) == ("waiting", level, tenant)
        ]
        return sorted(found, key=lambda entry: entry.entered)

    def enter(self, entry: Entry, now: float) -> None:
        entry.state = "waiting"
        entry.level = self.level(entry, now)
        if not self.line(entry.level, entry.tenant)[1:]:
            self.turns[entry.level, entry.tenant] = self.tick()
        entry.entered = self.tick()

    def leave(self, entry: Entry) -> None:
        where = entry.level, entry.tenant
        entry.state = "left"
        if not self.line(*where):
            self.turns.pop(where, None)

    def forget(self, entry: Entry) -> None:
        self.leave(entry)
        self.entries.remove(entry)

    def advance(self, now: float) -> None:
        while True:
            events: list[tuple[float, int, int]] = []
            for index, entry in enumerate(self.entries):
                if entry.deadline is not None and entry.deadline <= now:
                    events.append((entry.deadline, entry.number, index))
                elif entry.state == "later" and entry.returns <= now:
                    events.append((entry.returns, entry.number, index))
                elif entry.state == "waiting" and self.level(entry, now) < entry.level:
                    steps = entry.priority - entry.level + 1
                    events.append((entry.since + steps * AGEING, entry.number, index))
            if not events:
                return
            moment, _, index = min(events)
            entry = self.entries[index]
            if entry.deadline is not None and entry.deadline <= moment:
                self.forget(entry)
                self.expired.append(entry.item)
            else:
                if entry.state == "waiting":
                    self.leave(entry)
                self.enter(entry, moment)

    def take(self) -> Entry | None:
        for level in range(5):
            tenants = [tenant for at, tenant in self.turns if at == level]
            if tenants:
                tenant = min(tenants, key=lambda tenant: self.turns[level, tenant])
                self.turns[level, tenant] = self.tick()
                entry = self.line(level, tenant)[0]
                self.forget(entry)
                return entry
        return None

    def order(self) -> list[str]:
        """What would be taken one after the other."""
        kept = list(self.entries), dict(self.turns), [(e, e.state) for e in self.entries]
        found = []
        while (entry := self.take()) is not None:
            found.append(entry.item)
        self.entries, self.turns = kept[0], kept[1]
        for entry, state in kept[2]:
            entry.state = state
        return found


# A moment at which several things happen at once is as likely as one between them.
MOMENTS = st.sampled_from([1.0, 4.0, 5.0, 9.5, 10.0, 20.0, 33.0])
DEADLINES = st.none() | MOMENTS
# Turns are only taken where several tenants meet in one level.
PRIORITIES = st.sampled_from([1, 1, 1, 2, 0, 4])


class AgainstTheReference(RuleBasedStateMachine):
    """Every call on both, and everything that can be seen compared after each."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue: PriorityQueue[str] = PriorityQueue(
            capacity=CAPACITY,
            tenant_capacity=TENANT_CAPACITY,
            ageing_seconds=AGEING,
            clock=self.clock,
        )
        self.reference = Reference()
        self.pairs: dict[str, tuple[Ticket[str], Entry]] = {}
        self.taken: list[str] = []
        self.number = 0
        self.paused = False

    def look(self) -> None:
        self.reference.advance(self.clock.now)

    def until(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.clock.now + seconds

    @rule(
        target=tickets,
        tenant=st.sampled_from("abc"),
        priority=PRIORITIES,
        seconds=DEADLINES,
        waited=st.sampled_from([0.0, 0.0, 0.0, 10.0, 25.0]),
        held=st.sampled_from([False, False, False, True]),
    )
    def push(
        self, tenant: str, priority: int, seconds: float | None, waited: float, held: bool
    ) -> str:
        self.look()
        item = f"{tenant}{self.number}"
        deadline = self.until(seconds)
        mine = sum(entry.tenant == tenant for entry in self.reference.entries)
        full = len(self.reference.entries) >= CAPACITY or mine >= TENANT_CAPACITY
        options: Any = {"tenant": tenant, "priority": priority, "deadline": deadline}
        if full:
            with pytest.raises(QueueFull):
                self.queue.push(item, waited=waited, held=held, **options)
            return "refused"
        ticket = self.queue.push(item, waited=waited, held=held, **options)
        entry = Entry(item, tenant, priority, self.clock.now - waited, deadline, self.number)
        self.number += 1
        self.reference.entries.append(entry)
        if not held:
            self.reference.enter(entry, self.clock.now)
        self.pairs[item] = ticket, entry
        return item

    @rule(tenants=st.permutations("abc"))
    def several_come_at_once(self, tenants: list[str]) -> None:
        for tenant in [*tenants, *tenants[:2]]:
            self.push(tenant, 1, None, 0.0, False)

    @rule(item=tickets)
    def release(self, item: str) -> None:
        if item in self.pairs:
            self.look()
            ticket, entry = self.pairs[item]
            self.queue.release(ticket)
            if entry.state == "held" and entry in self.reference.entries:
                self.reference.enter(entry, self.clock.now)

    @rule(item=tickets, priority=st.integers(0, 4), seconds=DEADLINES)
    def join(self, item: str, priority: int, seconds: float | None) -> None:
        if item not in self.pairs:
            return
        self.look()
        ticket, entry = self.pairs[item]
        deadline = self.until(seconds)
        self.queue.join(ticket, priority=priority, deadline=deadline)
        if entry not in self.reference.entries:
            return
        if deadline is None or entry.deadline is None:
            entry.deadline = None
        else:
            entry.deadline = max(entry.deadline, deadline)
        if priority < entry.priority:
            level = entry.level
            entry.priority = priority
            if entry.state == "waiting" and self.reference.level(entry, self.clock.now) < level:
                self.reference.leave(entry)
                self.reference.enter(entry, self.clock.now)

    @rule(item=tickets)
    def remove(self, item: str) -> None:
        if item in self.pairs:
            self.look()
            ticket, entry = self.pairs[item]
            assert self.queue.remove(ticket) == (entry in self.reference.entries)
            if entry in self.reference.entries:
                self.reference.forget(entry)

    @rule(times=st.integers(1, 3))
    def take(self, times: int) -> None:
        for _ in range(times):
            self.take_one()

    def take_one(self) -> None:
        self.look()
        ticket = self.queue.take(timeout=0)
        entry = None if self.paused else self.reference.take()
        assert (ticket and ticket.item) == (entry and entry.item)
        if entry is not None:
            self.taken.append(entry.item)

    @precondition(lambda self: self.taken)
    @rule(seconds=MOMENTS, data=st.data())
    def put_back(self, seconds: float, data: st.DataObject) -> None:
        self.look()
        item = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        ticket, entry = self.pairs[item]
        self.queue.put_back(ticket, seconds=seconds)
        entry.state, entry.returns = "later", self.clock.now + seconds
        self.reference.entries.append(entry)

    @rule(seconds=MOMENTS)
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def pause_or_resume(self) -> None:
        (self.queue.resume if self.paused else self.queue.pause)()
        self.paused = not self.paused

    @rule()
    def collect_the_expired(self) -> None:
        self.look()
        assert self.queue.expired() == self.reference.expired
        self.reference.expired = []

    @invariant()
    def everything_that_can_be_seen_is_the_same(self) -> None:
        self.look()
        depths = self.queue.depths()
        by_priority = [entry.priority for entry in self.reference.entries]
        assert depths == {priority: by_priority.count(priority) for priority in range(5)}
        assert len(self.queue) == len(by_priority)
        order = self.reference.order()
        for item, (ticket, _) in self.pairs.items():
            place = order.index(item) + 1 if item in order else None
            assert self.queue.position(ticket) == place


TestAgainstTheReference = AgainstTheReference.TestCase
TestAgainstTheReference.settings = settings(max_examples=150, stateful_step_count=40)


# ---- what the reference does not show -----------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, **options: Any) -> PriorityQueue[str]:
    usual: dict[str, Any] = {"capacity": 100, "ageing_seconds": 10.0, "clock": clock}
    return PriorityQueue(**usual | options)


def emptied(queue: PriorityQueue[str]) -> list[str]:
    found = []
    while (ticket := queue.take(timeout=0)) is not None:
        found.append(ticket.item)
    return found


def test_nobody_waits_for_ever_behind_a_stream_of_the_urgent(clock: Clock) -> None:
    queue = make(clock)
    queue.push("patient", tenant="a", priority=4)
    served = []
    for second in range(60):
        queue.push(f"urgent {second}", tenant="b", priority=0)
        clock.now += 1
        served.append(queue.take(timeout=0).item)  # type: ignore[union-attr]  # never empty
    assert served.index("patient") in (39, 40)


def test_a_tenant_with_a_thousand_waits_no_shorter_than_one_with_one(clock: Clock) -> None:
    queue = make(clock, capacity=2000)
    for number in range(1000):
        queue.push(f"many {number}", tenant="many", priority=1)
    queue.push("one", tenant="one", priority=1)
    assert emptied(queue)[:3] == ["many 0", "one", "many 1"]


def test_a_tenant_that_asks_again_at_once_does_not_jump_its_turn(clock: Clock) -> None:
    queue = make(clock)
    for number in range(3):
        queue.push(f"b{number}", tenant="b", priority=1)
    served = []
    for number in range(3):
        queue.push(f"a{number}", tenant="a", priority=1)
        for _ in range(2):
            served.append(queue.take(timeout=0).item)  # type: ignore[union-attr]  # never empty
    assert served == ["b0", "a0", "b1", "a1", "b2", "a2"]


def test_who_floods_is_refused_while_others_find_room(clock: Clock) -> None:
    queue = make(clock, capacity=10, tenant_capacity=6)
    for number in range(6):
        queue.push(f"a{number}", tenant="a", priority=1)
    with pytest.raises(QueueFull, match="6 documents of yours are waiting already"):
        queue.push("a6", tenant="a", priority=0)
    for number in range(4):
        queue.push(f"b{number}", tenant="b", priority=1)
    with pytest.raises(QueueFull, match="10 documents are waiting already"):
        queue.push("c", tenant="c", priority=0)


def test_what_is_gone_leaves_nothing_behind(clock: Clock) -> None:
    queue = make(clock)
    for number in range(10_000):
        ticket = queue.push(str(number), tenant=str(number), priority=4, deadline=clock.now + 1e6)
        assert queue.remove(ticket)
    assert len(queue._due) < 100
    assert not queue._by_tenant
    assert not any(queue._levels)


def test_a_waiting_taker_is_woken_by_what_comes_and_by_the_end() -> None:
    queue: PriorityQueue[str] = PriorityQueue(capacity=10)
    found: list[Ticket[str] | None] = []
    taker = threading.Thread(target=lambda: found.extend([queue.take(), queue.take()]))
    taker.start()
    queue.push("came", tenant="a", priority=1)
    while not found and taker.is_alive() and len(queue):
        pass
    queue.close()
    taker.join(30)
    assert [ticket and ticket.item for ticket in found] == ["came", None]
    assert queue.take() is None


def test_what_is_put_back_wakes_a_taker_when_its_time_has_come() -> None:
    queue: PriorityQueue[str] = PriorityQueue(capacity=10)
    queue.push("again", tenant="a", priority=1)
    ticket = queue.take()
    assert ticket is not None
    queue.put_back(ticket, seconds=0.01)
    assert queue.take(timeout=30) is ticket


@pytest.mark.parametrize(
    "options", [{"capacity": 0}, {"tenant_capacity": 0}, {"ageing_seconds": 0}]
)
def test_bounds_that_make_no_sense_are_refused(clock: Clock, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make(clock, **options)


@pytest.mark.parametrize("priority", [-1, 5])
def test_there_are_five_priorities(clock: Clock, priority: int) -> None:
    queue = make(clock)
    with pytest.raises(ValueError, match="not a valid Priority"):
        queue.push("x", tenant="a", priority=priority)
    assert len(queue) == 0
