"""The sampler's way out of a loop: the same words are never said three times running."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.truthgpt.sampler import LONGEST_LOOP, third_times


def tripled(tokens: list[int], token: int) -> bool:
    """The definition: with ``token`` the text ends in some unit three times."""
    text = [*tokens, token]
    return any(
        len(text) >= 3 * size
        and text[-size:] == text[-2 * size : -size] == text[-3 * size : -2 * size]
        for size in range(1, LONGEST_LOOP + 1)
    )


@given(st.lists(st.integers(0, 2), max_size=60))
def test_exactly_the_tokens_that_complete_a_third_time_are_found(tokens: list[int]) -> None:
    found = third_times(tokens, lambda token: True)
    assert {token for token in range(3) if tripled(tokens, token)} == set(found)


def test_a_unit_without_letters_may_repeat() -> None:
    border = [1, 2, 1, 2, 1]
    assert third_times(border, lambda token: True) == [2]
    assert third_times(border, lambda token: token > 2) == []
    assert third_times([1, 3, 1, 3, 1], lambda token: token > 2) == [3]
