"""Any sequence of calls on a GPU tier, with any failure in between: what is found is what was put last.

The oracle is a dict of what each key may answer. While nothing has failed that is one payload and
must be found, on the device or below; after a failure it may be missing, but never be another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from device_blocks import LOST, OUT_OF_MEMORY, DictTier, key_of, open_tier
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from blatam_kv.errors import DeviceUnavailable, TierUnavailable
from blatam_kv.record import Kind, Record

KEYS = st.integers(0, 7)


class TierMachine(RuleBasedStateMachine):
    @initialize(
        budget=st.integers(1, 24 << 10),
        lazy=st.booleans(),
        policy=st.sampled_from(["lru", "sieve", "adaptive", "lfu"]),
    )
    def start(self, budget: int, lazy: bool, policy: str) -> None:
        self.below = DictTier()
        self.tier, self.bus = open_tier(self.below, 256 + budget, lazy=lazy, policy=policy)
        self.may: dict[bytes, set[bytes]] = {}
        self.lossy = False
        self.turn = 0

    def _judge(self, key: bytes, found: bytes | None) -> None:
        allowed = self.may.get(key, set())
        if found is None:
            assert self.lossy or not allowed
        else:
            assert found in allowed

    @rule(key=KEYS, size=st.integers(0, 6000), durable=st.booleans())
    def put(self, key: int, size: int, durable: bool) -> None:
        self.turn += 1
        payload = np.random.default_rng([self.turn, size]).bytes(size) + bytes([self.turn % 256])
        name = key_of(key)
        try:
            assert self.tier.put_many([Record(name, Kind.RESPONSE, payload)], durable=durable) == 1
        except TierUnavailable:
            assert self.below.failing
            self.may.setdefault(name, set()).add(payload)
            self.lossy = True
        else:
            self.may[name] = {payload}

    @rule(keys=st.lists(KEYS, max_size=4))
    def get(self, keys: list[int]) -> None:
        names = [key_of(key) for key in keys]
        try:
            records = self.tier.get_many(names)
        except TierUnavailable:
            assert self.below.failing
            return
        for name, record in zip(names, records, strict=True):
            self._judge(name, None if record is None else bytes(record.payload))

    @rule(keys=st.lists(KEYS, max_size=3))
    def lend(self, keys: list[int]) -> None:
        names = [key_of(key) for key in keys]
        try:
            with self.tier.lend_many(names) as blobs:
                self.tier.put_many([Record(key_of(9), Kind.RESPONSE, bytes(3000))])
                for name, blob in zip(names, blobs, strict=True):
                    if blob is not None:
                        assert np.asarray(blob).tobytes() in self.may[name]
        except (TierUnavailable, DeviceUnavailable):
            assert self.below.failing or self.lossy

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        name = key_of(key)
        try:
            known = self.tier.delete_many([name])
        except TierUnavailable:
            assert self.below.failing
            self.lossy = True
        else:
            assert self.lossy or known == (name in self.may)
            self.may.pop(name, None)

    @rule(key=KEYS)
    def pin(self, key: int) -> None:
        self.tier.pin(key_of(key))

    @rule(key=KEYS)
    def unpin(self, key: int) -> None:
        self.tier.unpin(key_of(key))

    @rule()
    def flush(self) -> None:
        self.tier.flush()

    @rule(failing=st.booleans())
    def the_tier_below_fails(self, failing: bool) -> None:
        self.below.failing = failing
        self.lossy = self.lossy or failing

    @rule(
        calls=st.integers(0, 20), code=st.sampled_from([LOST, OUT_OF_MEMORY]), forever=st.booleans()
    )
    def the_device_fails(self, calls: int, code: int, forever: bool) -> None:
        self.bus.fail_after(calls, code, forever=forever)
        self.lossy = True

    @invariant()
    def bounds_hold(self) -> None:
        stats = self.tier.stats()
        assert stats.bytes <= stats.capacity_bytes == self.bus.pool_bytes
        assert self.bus.taken_bytes <= self.bus.pool_bytes

    def teardown(self) -> None:
        if not hasattr(self, "tier"):
            return
        self.below.failing = False
        self.tier.close()
        for name, record in self.below.records.items():
            if name != key_of(9):
                self._judge(name, bytes(record.payload))
        if not self.lossy:
            assert self.may.keys() <= self.below.records.keys()


TestTier: Any = TierMachine.TestCase
TestTier.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
