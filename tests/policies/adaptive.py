"""``adaptive`` and what it is made of: csrc/core/adaptive.h, shadows.h, regret.h, pattern.h."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from policies.base import Base, mixed_hash
from policies.calendar import Calendar, Unit, class_of, group_of
from policies.life_table import LifeTable, bin_of
from policies.prices import Prices, octave_of

ORDERS = ("lru", "lfu", "loop", "density")
LANES = (*ORDERS, "larger")
PRICED = ("density", "larger")  # of which cost and size decide the order too
KEYS_REMEMBERED = 6  # for each entry of the capacity


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def rank_at(
    calendar: Calendar, at: int, lane: str, order: str, lives: LifeTable, blocks: bool
) -> None:
    """Ranks of one unit's lists in one cache."""
    unit = calendar.units[at]
    age = bin_of(calendar.middle_age(at) if blocks else calendar.least_age(at))
    for each in range(8):
        often = 1e17 * each
        if order == "lru":
            rank = float(unit.start)
        elif order == "lfu":
            rank = often + unit.start
        elif order == "loop":
            rank = 8e17 + unit.start if at < 2 else often - unit.start
        else:
            rank = lives.worth[each if blocks else min(each, 3)][age]
        unit.ranks[lane, each] = rank


def rank_all(
    calendar: Calendar, lane: str, order: str, lives: LifeTable, blocks: bool = False
) -> None:
    for at in range(len(calendar.units)):
        rank_at(calendar, at, lane, order, lives, blocks)


def rank_day(
    calendar: Calendar, lane: str, order: str, lives: LifeTable, blocks: bool = False
) -> None:
    """The first unit is new, and for ``loop`` the third is spared no more."""
    rank_at(calendar, 0, lane, order, lives, blocks)
    if order == "loop" and len(calendar.units) > 2:
        rank_at(calendar, 2, lane, order, lives, blocks)


class Pattern:
    def __init__(self) -> None:
        self.first = 0
        self.again = [0] * 124
        self.label = "mixed"

    def decide(self) -> None:
        again = sum(self.again)
        seen = self.first + again
        if not seen:
            return
        alike = max(sum(self.again[i : i + 4]) for i in range(121))
        if 4 * self.first >= 3 * seen or (4 * again >= 3 * seen and 4 * alike >= 3 * again):
            self.label = "sequential"
        elif 2 * self.first <= seen and 2 * alike <= again:
            self.label = "random"
        else:
            self.label = "mixed"
        self.first //= 2
        self.again = [count // 2 for count in self.again]


@dataclass
class Node:
    uses: int = 0
    used: int = 0
    cost: float = 1.0
    size: int = 1
    octave: int = 0
    last: bool = False
    lanes: set[str] = field(default_factory=set)
    real: bool = False

    def held(self) -> bool:
        return self.real or bool(self.lanes)


class Tally:
    def __init__(self) -> None:
        self.requests = 0
        self.asked = self.real = 0.0
        self.hits = dict.fromkeys(LANES, 0.0)
        self.only_real = dict.fromkeys(LANES, 0.0)


class Shadows:
    def __init__(self, calendar: Calendar, prices: Prices, most: int, compete: bool) -> None:
        self.calendar, self.prices, self.most, self.compete = calendar, prices, most, compete
        self.bits = 0
        self.capacity = 1
        self.bytes = 0
        self.places = 0
        self.nodes: dict[int, Node] = {}  # by hash
        self.queue: dict[int, None] = {}  # held by no cache, let go of longest ago first
        self.lives = LifeTable()
        self.missed = self.learned_at = self.faded_at = 0
        self.tally = Tally()
        self.pattern = Pattern()

    def grow(self, slots: int) -> None:
        self.places = KEYS_REMEMBERED * (min(slots, self.most) + 1)

    def room_of(self, lane: str) -> int:
        room = max(1, self.bytes >> self.bits) if self.bytes else self.capacity
        return room + (room + 3) // 4 if lane == "larger" else room

    def weight(self, node: Node) -> int:
        return node.size if self.bytes else 1

    def shelf_of(self, lane: str, node: Node) -> int:
        return self.prices.shelf_of(node.octave) if lane in PRICED else 0

    def set_capacity(self, entries: int) -> None:
        def bits_for(capacity: int) -> int:
            return ((capacity - 1) // self.most).bit_length()

        self.bits = max(bits_for(entries), min(self.bits, bits_for(entries + entries // 4)))
        self.capacity = max(1, entries >> self.bits)
        for hashed in list(self.nodes):
            if not self.sees(hashed):
                self.take_out(hashed)
        self.fit_room()

    def set_capacity_bytes(self, limit: int) -> None:
        self.bytes = limit
        self.fit_room()

    def fit_room(self) -> None:
        for lane in LANES if self.compete else ():
            while self.held(lane) > self.room_of(lane):
                self.evict(lane)

    def sees(self, hashed: int) -> bool:
        return (hashed >> 32) % (1 << self.bits) == 0

    def held(self, lane: str) -> int:
        inside = (node for node in self.nodes.values() if lane in node.lanes)
        return sum(node.size for node in inside) if self.bytes else sum(1 for _ in inside)

    def apart(self, lane: str) -> int:
        return sum(node.real and lane not in node.lanes for node in self.nodes.values())

    def use(
        self,
        hashed: int,
        hit: bool,
        last: bool,
        octave: int,
        cost: float | None = None,
        size: int | None = None,
    ) -> int:
        first = hashed not in self.nodes
        if first:
            if not self.make_place():
                return 1
            self.nodes[hashed] = Node()
            self.pattern.first += 1
        node = self.nodes[hashed]
        old_unit, old_class = self.calendar.unit_of(node.used), class_of(max(1, node.uses))
        if not first:
            age = self.calendar.now - node.used
            self.lives.cases_used[group_of(node.uses, node.last)][bin_of(age)] += 1
            self.pattern.again[bin_of(age)] += 1
            self.queue.pop(hashed, None)
        node.uses = min(node.uses + 1, 255)
        node.used = self.calendar.now
        node.last = last
        repriced, node.octave = octave != node.octave, octave
        node.cost = node.cost if cost is None else cost
        node.size = node.size if size is None else size
        self.missed += not hit
        self.tally.requests += 1
        self.tally.asked += node.cost
        self.tally.real += node.cost if hit else 0
        unit, new_class = self.calendar.units[0], class_of(node.uses)
        for lane in LANES if self.compete else ():
            if lane in node.lanes:
                self.tally.hits[lane] += node.cost
                if (unit, new_class, False) == (old_unit, old_class, repriced):
                    continue
                old_unit.take(lane, hashed)
            else:
                if hit:
                    self.tally.only_real[lane] += node.cost
                if self.weight(node) > self.room_of(lane):
                    continue
                while self.held(lane) + self.weight(node) > self.room_of(lane):
                    self.evict(lane)
                node.lanes.add(lane)
            unit.inside(lane, new_class, self.shelf_of(lane, node))[hashed] = None
            while self.held(lane) > self.room_of(lane):
                self.evict(lane)
        node.real = True
        return node.uses

    def evict(self, lane: str) -> None:
        prices = self.prices.prices if lane in PRICED else [1.0]
        hashed = self.calendar.coldest(lane, set(), prices)
        assert isinstance(hashed, int)
        node = self.nodes[hashed]
        self.unlist(hashed, lane)
        if not node.held():
            self.queue[hashed] = None

    def unlist(self, hashed: int, lane: str) -> None:
        node = self.nodes[hashed]
        self.calendar.unit_of(node.used).take(lane, hashed)
        node.lanes.remove(lane)

    def left(self, hashed: int) -> None:
        node = self.nodes.get(hashed)
        if node is None or not node.real:
            return
        node.real = False
        if not node.held():
            self.queue[hashed] = None

    def make_place(self) -> bool:
        while len(self.nodes) >= KEYS_REMEMBERED * (self.capacity + 1) and self.queue:
            self.forget()
        if len(self.nodes) == self.places and self.queue:
            self.forget()
        return len(self.nodes) < self.places

    def forget(self) -> None:
        hashed = next(iter(self.queue))
        node = self.nodes[hashed]
        age = self.calendar.now - node.used
        self.lives.cases_forgotten[group_of(node.uses, node.last)][bin_of(age)] += 1
        self.take_out(hashed)

    def take_out(self, hashed: int) -> None:
        if hashed not in self.nodes:
            return
        for lane in list(self.nodes[hashed].lanes):
            self.unlist(hashed, lane)
        self.queue.pop(hashed, None)
        del self.nodes[hashed]

    def rank_day(self, everything: bool) -> None:
        for lane in LANES if self.compete else ():
            order = "density" if lane == "larger" else lane
            rank = rank_all if everything and order == "density" else rank_day
            rank(self.calendar, lane, order, self.lives)

    def learn(self) -> bool:
        waited = self.missed - self.learned_at
        if self.missed < self.capacity or waited < max(64, self.capacity // 4):
            return False
        self.learned_at = self.missed
        self.learn_now()
        if self.missed - self.faded_at >= 30 * self.capacity:
            self.faded_at = self.missed
            self.lives.fade()
        return True

    def learn_now(self) -> None:
        living = [[0] * 124 for _ in range(8)]
        for node in self.nodes.values():
            at = self.calendar.units.index(self.calendar.unit_of(node.used))
            age = self.calendar.middle_age(at)
            living[group_of(node.uses, node.last)][bin_of(age)] += 1
        self.lives.learn(living)
        self.rank_day(True)


class Regret:
    def __init__(self) -> None:
        self.leader = self.left = "density"
        self.beside_cache = dict.fromkeys(ORDERS, 0.0)
        self.beside_leader = dict.fromkeys(ORDERS, 0.0)
        self.forfeit = dict.fromkeys(ORDERS, 0.0)
        self.apart = dict.fromkeys(ORDERS, 0.0)
        self.caution = 1.0
        self.real_since = self.left_since = 0.0

    def judge(self, tally: Tally, apart: dict[str, float], fading: float) -> None:
        self.real_since += tally.real
        self.left_since += tally.hits[self.left]
        gains = {}
        for rival in ORDERS:
            self.forfeit[rival] = self.forfeit[rival] * fading + tally.only_real[rival]
            if rival == self.leader:
                self.apart[rival] = 0.0
                continue
            self.apart[rival] = max(apart[rival], self.apart[rival] * fading)
            hits = tally.hits[rival]
            self.beside_cache[rival] = max(0.0, self.beside_cache[rival] + hits - tally.real)
            self.beside_leader[rival] = max(
                0.0, self.beside_leader[rival] + hits - tally.hits[self.leader]
            )
            regret = min(self.beside_cache[rival], self.beside_leader[rival])
            bound = min(self.apart[rival], self.forfeit[rival])
            gains[rival] = regret - (self.apart[rival] + self.caution * 2 * bound)
        best = max(gains, key=lambda rival: gains[rival])
        if gains[best] <= 0:
            return
        if self.left != self.leader:
            rued = self.real_since < self.left_since
            self.caution = min(8.0, self.caution * 2) if rued else max(1.0, self.caution / 2)
        self.left, self.leader = self.leader, best
        self.real_since = self.left_since = 0.0
        self.beside_cache = dict.fromkeys(ORDERS, 0.0)
        self.beside_leader = dict.fromkeys(ORDERS, 0.0)


class Recall:
    """Places for keys that no shadow sees, each taken over by whoever leaves next."""

    def __init__(self) -> None:
        self.size = 0
        self.places: dict[int, tuple[int, int]] = {}

    def grow(self, slots: int) -> None:
        self.size = 1 << (4 * slots - 1).bit_length()
        self.places.clear()

    def leave(self, hashed: int, uses: int) -> None:
        self.places[hashed % self.size] = (hashed >> 51, class_of(uses))

    def uses(self, hashed: int) -> int:
        tag, times = self.places.get(hashed % self.size, (0, 0))
        return 1 << times if (tag, times) != (0, 0) and tag == hashed >> 51 else 0


@dataclass
class Entry:
    hash: int
    used: int
    uses: int
    last: bool
    octave: int
    parent: object | None = None


class Adaptive(Base):
    RULE = "regret"

    def __init__(self, shadows: int = 16_384, interval: float = 0.1) -> None:
        self.interval, self.most = interval, shadows
        self.slots = 0
        self.told: int | None = None
        self.own = 1
        self.blocks = False
        self.last_hash: int | None = None
        self.day = 1
        self.today = self.unseen = 0
        self.calendar = Calendar()
        self.entries: dict[object, Entry] = {}
        self.recall = Recall()
        self.bytes = 0
        self.prices = Prices()
        self.shadows = Shadows(self.calendar, self.prices, shadows, self.RULE != "density")
        self.regret = Regret()
        self.leader = "density"
        self.rank()
        self.shadows.rank_day(True)

    def grow(self, slots: int) -> None:
        self.slots = slots
        self.shadows.grow(slots)
        if slots > self.most:
            self.recall.grow(slots)
        if self.told is None:
            self.set_capacity(None)

    def set_capacity(self, entries: int | None) -> None:
        self.told = entries
        self.own = max(1, self.slots if entries is None else entries)
        self.day = max(1, self.own // 64)
        self.shadows.set_capacity(self.own)

    def set_capacity_bytes(self, limit: int) -> None:
        self.bytes = limit
        self.shadows.set_capacity_bytes(limit)

    def price(self, size: int, cost: float) -> int:
        """Puts one more on the shelf of its price."""
        price = cost / size if self.bytes else cost
        self.prices.put(price, self.is_empty)
        return octave_of(price)

    def is_empty(self, shelf: int) -> bool:
        return not any(
            (each, shelf) in unit.lists.get(lane, {})
            for unit in self.calendar.units
            for lane in ("real", *PRICED)
            for each in range(8)
        )

    def inside(self, unit: Unit, entry: Entry) -> dict[object, None]:
        return unit.inside("real", self.class_of(entry), self.prices.shelf_of(entry.octave))

    def insert(self, key: object, size: int, cost: float) -> None:
        self.pass_use()
        size, cost = max(1, size), float32(min(cost, 1e12))
        octave = self.price(size, cost)
        hashed = mixed_hash(key)
        last = self.blocks and hashed == self.last_hash
        seen = self.shadows.sees(hashed)
        if seen:
            uses = self.shadows.use(hashed, False, last, octave, cost, size)
        else:
            uses = min(self.recall.uses(hashed) + 1, 255)
        entry = self.entries[key] = Entry(hashed, self.calendar.now, uses, last, octave)
        self.inside(self.calendar.units[0], entry)[key] = None
        if seen:
            self.think()

    def hit(self, key: object) -> None:
        self.use(key)

    def update(self, key: object, size: int, cost: float) -> None:
        self.use(key, max(1, size), float32(min(cost, 1e12)))

    def use(self, key: object, size: int | None = None, cost: float | None = None) -> None:
        entry = self.entries[key]
        if self.blocks and entry.used == self.calendar.now:
            return
        self.pass_use()
        last = self.blocks and entry.hash == self.last_hash
        octave = entry.octave if cost is None or size is None else self.price(size, cost)
        seen = self.shadows.sees(entry.hash)
        if seen:
            self.shadows.use(entry.hash, True, last, octave, cost, size)
        old = self.calendar.unit_of(entry.used), self.class_of(entry), entry.octave
        entry.uses = min(entry.uses + 1, 255)
        entry.used, entry.last, entry.octave = self.calendar.now, last, octave
        new = self.calendar.units[0], self.class_of(entry), octave
        if self.is_leaf(key) and new != old:
            old[0].take("real", key)
            self.inside(new[0], entry)[key] = None
        if seen:
            self.think()

    def uses(self, key: object) -> int:
        return self.entries[key].uses

    def unlearn(self) -> None:
        self.regret = Regret()
        self.shadows.pattern.label = "mixed"
        self.shadows.lives = LifeTable()
        self.shadows.learn_now()
        self.leader = "density"
        self.rank()

    def evict(self, pinned: set[object], incoming: object | None) -> object | None:
        density = self.leader == "density"
        prices = self.prices.prices if density else [1.0] * len(self.prices.prices)
        key = self.calendar.coldest("real", pinned, prices)
        if key is None:
            return None
        entry = self.entries[key]
        if self.shadows.sees(entry.hash):
            self.shadows.left(entry.hash)
        else:
            self.recall.leave(entry.hash, entry.uses)
        self.depart(key)
        return key

    def remove(self, key: object) -> None:
        self.shadows.take_out(self.entries[key].hash)
        self.depart(key)

    def depart(self, key: object) -> None:
        leaf = self.is_leaf(key)
        entry = self.entries.pop(key)
        if leaf:
            self.calendar.unit_of(entry.used).take("real", key)
        for other in self.entries.values() if self.blocks else ():
            if other.parent == key:
                other.parent = None
        parent = self.entries.get(entry.parent) if entry.parent is not None else None
        if parent is not None and self.is_leaf(entry.parent):
            inside = self.inside(self.calendar.unit_of(parent.used), parent)
            after = dict(inside)
            inside.clear()
            inside.update({entry.parent: None, **after})

    def begin_request(self, last: object | None) -> None:
        """Blocks of a prompt follow, this one its last."""
        if not self.blocks:
            assert not self.entries
            self.blocks = True
            self.calendar.most_of_a_length = 8
            self.shadows.compete = False
            self.leader = "density"
            self.rank()
        self.last_hash = None if last is None else mixed_hash(last)
        self.calendar.now += 1
        if self.today >= self.day:
            self.begin_day()

    def link(self, parent: object, child: object) -> None:
        if self.blocks:
            if self.is_leaf(parent):
                self.calendar.unit_of(self.entries[parent].used).take("real", parent)
            self.entries[child].parent = parent

    def is_leaf(self, key: object) -> bool:
        return not self.blocks or all(entry.parent != key for entry in self.entries.values())

    def class_of(self, entry: Entry) -> int:
        return group_of(entry.uses, entry.last) if self.blocks else class_of(entry.uses)

    def pass_use(self) -> None:
        self.today += 1
        if self.blocks:
            return
        self.calendar.now += 1
        if self.today >= self.day:
            self.begin_day()

    def begin_day(self) -> None:
        self.unseen += self.today
        self.today = 0
        self.calendar.begin_day()
        everything = self.unseen >= 4
        if everything:
            self.unseen = 0
        self.shadows.rank_day(everything)
        if everything and self.leader == "density":
            self.rank()
        else:
            rank_day(self.calendar, "real", self.leader, self.shadows.lives, self.blocks)

    def rank(self) -> None:
        rank_all(self.calendar, "real", self.leader, self.shadows.lives, self.blocks)

    def think(self) -> None:
        shadows = self.shadows
        if shadows.learn() and self.leader == "density":
            self.rank()
        tally = shadows.tally
        if tally.requests < self.interval * shadows.capacity:
            return
        fading = math.exp2(-tally.requests / (8.0 * shadows.capacity))
        shadows.tally = Tally()
        shadows.pattern.decide()
        if not shadows.compete:
            return
        apart = {order: shadows.apart(order) * tally.asked / tally.requests for order in ORDERS}
        self.regret.judge(tally, apart, fading)
        leader = self.regret.leader
        if self.RULE == "pattern":
            leader = {"sequential": "lru", "random": "lfu"}.get(shadows.pattern.label, leader)
        if leader != self.leader:
            self.leader = leader
            self.rank()
