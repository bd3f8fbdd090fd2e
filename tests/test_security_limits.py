"""Limits and nonces against slow ones that remember everything."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.bul.security.limits import Limiter
from blatam_kv.bul.security.nonces import Nonces


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class LeakyBucket:
    """The same rule told with a bucket: each request pours one in, the window drains ``limit``."""

    def __init__(self, limit: int, window: int) -> None:
        self.limit, self.window = limit, window
        self.level, self.last = Fraction(0), Fraction(0)

    def take(self, now: Fraction) -> bool:
        drained = (now - self.last) * self.limit / self.window
        self.level, self.last = max(Fraction(0), self.level - drained), now
        if self.level + 1 > self.limit:
            return False
        self.level += 1
        return True


@given(
    st.integers(1, 20),
    st.integers(1, 100),
    st.lists(st.integers(0, 400), max_size=100),
)
def test_it_lets_through_what_a_leaky_bucket_lets_through(
    limit: int, window: int, steps: list[int]
) -> None:
    time = Time()
    time.now = 0.0
    limiter, bucket = Limiter(limit, window, clock=time), LeakyBucket(limit, window)
    for step in steps:
        time.now += step / 16  # exact in binary
        verdict = limiter.take("a")
        assert verdict.allowed == bucket.take(Fraction(time.now))
        assert verdict.left == int(bucket.limit - bucket.level)


def test_who_waits_as_long_as_told_is_let_through() -> None:
    time = Time()
    limiter = Limiter(3, 10, clock=time)
    assert [limiter.take("a").left for _ in range(3)] == [2, 1, 0]
    refused = limiter.take("a")
    assert not refused.allowed
    assert refused.retry_after == pytest.approx(10 / 3)
    time.now += refused.retry_after
    assert limiter.take("a").allowed
    assert not limiter.take("a").allowed


def test_names_do_not_share_and_may_have_limits_of_their_own() -> None:
    limiter = Limiter(1, 10, clock=Time())
    assert limiter.take("a").allowed
    assert not limiter.take("a").allowed
    assert limiter.take("b").allowed
    assert [limiter.take("c", limit=2).allowed for _ in range(3)] == [True, True, False]


def test_many_names_take_bounded_room_and_those_in_use_are_not_set_free() -> None:
    time = Time()
    limiter = Limiter(1, 10, most_names=10_500, clock=time)
    for name in range(10_500):
        assert limiter.take(str(name)).allowed
    assert not limiter.take("one more").allowed
    assert not limiter.take("0").allowed
    time.now += 10
    assert limiter.take("one more").allowed
    assert len(limiter) < 10_500


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=80))
def test_a_nonce_is_good_once_while_it_matters(uses: list[tuple[int, int]]) -> None:
    time = Time()
    nonces = Nonces(20, clock=time)
    seen: dict[int, float] = {}
    for step, nonce in uses:
        time.now += step
        first = nonces.use("k", str(nonce))
        if nonce in seen and time.now - seen[nonce] < 20:
            assert not first
        if nonce not in seen or time.now - seen[nonce] >= 40:
            assert first
        if first:
            seen[nonce] = time.now


def test_a_nonce_belongs_to_its_key() -> None:
    nonces = Nonces(10, clock=Time())
    assert nonces.use("a", "n")
    assert nonces.use("b", "n")
    assert not nonces.use("a", "n")


def test_no_more_are_remembered_than_allowed_and_the_rest_is_refused() -> None:
    time = Time()
    nonces = Nonces(10, most=3, clock=time)
    assert [nonces.use("k", str(n)) for n in range(5)] == [True, True, True, False, False]
    time.now += 20
    assert nonces.use("k", "9")
