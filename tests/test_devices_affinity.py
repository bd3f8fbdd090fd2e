"""Where prompts go that begin alike: to who has their beginning, as long as that saves more than it costs."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest
from device_fakes import Machine, balancer
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.devices import Weights
from blatam_kv.devices.whereabouts import Whereabouts

BLOCK = Weights().block_tokens


def names(*path: int) -> list[bytes]:
    """The names of a prompt's blocks: each is of all before it too."""
    return [repr(path[: end + 1]).encode() for end in range(len(path))]


def test_a_prefix_stays_where_it_is_and_moves_only_with_its_gpu() -> None:
    prefixes = [names(i) for i in range(100)]

    def homes(*out: str) -> list[str]:
        chooser = balancer(Machine([0.1] * 4))  # another process
        for gpu in out:
            chooser.leave(gpu)
        found = []
        for prefix in prefixes:
            with chooser.choose(10, prefix=prefix) as ticket:
                found.append(ticket.gpu)
        return found

    before = homes()
    assert before == homes()
    assert set(before) == set("0123")
    after = homes("2")
    assert all(now == home for now, home in zip(after, before, strict=True) if home != "2")
    assert "2" not in after


def test_a_conversation_goes_on_where_it_began_and_is_charged_what_is_new() -> None:
    chooser = balancer(Machine([0.0] * 4))
    path: list[int] = []
    homes = set()
    for turn in range(8):
        path += [turn, 1000 + turn]
        with chooser.choose(len(path) * BLOCK + 50, prefix=names(*path)) as ticket:
            homes.add(ticket.gpu)
            assert ticket.saved_tokens == (len(path) - 2) * BLOCK
            booked = sum(each.queued_tokens for each in chooser.snapshots())
            assert booked == 2 * BLOCK + 50
    assert len(homes) == 1
    assert sum(each.saved_tokens for each in chooser.snapshots()) == sum(range(0, 16, 2)) * BLOCK


def test_conversations_that_share_their_beginning_spread() -> None:
    """A prompt of the system before everything must not lead everything to one GPU."""
    chooser = balancer(Machine([0.0] * 4))
    first = [chooser.choose(1000, prefix=names(0, i, i)) for i in range(40)]
    chosen = [ticket.gpu for ticket in first]
    assert max(map(chosen.count, "0123")) <= min(map(chosen.count, "0123")) + 2
    for ticket in first:
        ticket.done()
    again = [chooser.choose(1000, prefix=names(0, i, i, 0)) for i in range(40)]
    assert sum(new.gpu == old for new, old in zip(again, chosen, strict=True)) >= 30


def test_a_popular_prefix_spreads_when_waiting_for_it_costs_more_than_computing_it() -> None:
    chooser = balancer(Machine([0.0] * 4), margin=0)
    popular = names(*range(10))
    first = chooser.choose(11 * BLOCK, prefix=popular)
    first.done()
    chosen = [chooser.choose(11 * BLOCK, prefix=popular).gpu for _ in range(60)]
    # 640 of 704 tokens are saved at home: ten that need 64 wait there before another is as near.
    assert chosen[:9] == [first.gpu] * 9
    assert set(chosen) == set("0123")


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=6), st.integers(0, 500)), max_size=60),
    st.floats(0, 2),
)
def test_who_is_chosen_is_ahead_of_the_least_loaded_by_no_more_than_it_saves(
    work: list[tuple[list[int], int]], skew: float
) -> None:
    chooser = balancer(Machine([0.5] * 4), skew=skew, margin=0)
    for path, tokens in work:
        before = {s.gpu: s.queued_tokens + s.in_flight for s in chooser.snapshots()}
        ticket = chooser.choose(tokens, prefix=names(*path))
        saved = ticket.saved_tokens
        assert saved <= min(tokens, len(path) * BLOCK)
        assert before[ticket.gpu] <= min(before.values()) + max(skew * saved, 0) + 1e-6


def test_a_gpu_that_failed_is_not_believed_to_have_what_it_had() -> None:
    machine = Machine([0.0, 0.0])
    chooser = balancer(machine)
    prompt = names(*range(8))
    home = chooser.choose(600, prefix=prompt)
    home.failed()
    machine.now += 1.0
    for probe in chooser.trials():
        probe.done()
    assert chooser.choose(600, prefix=prompt).saved_tokens == 0


# ---- what was given to whom, beside sets --------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["note", "depths", "forget"]),
            st.integers(0, 2),
            st.lists(st.integers(0, 2), max_size=5),
        ),
        max_size=80,
    )
)
def test_it_is_what_a_set_of_names_for_each_gpu_says(
    steps: list[tuple[str, int, list[int]]],
) -> None:
    ours, sets = Whereabouts(3, 1000), [set[bytes]() for _ in range(3)]
    for what, gpu, path in steps:
        prompt = names(*path)
        if what == "note":
            ours.note(prompt, gpu)
            sets[gpu] |= set(prompt)
        elif what == "forget":
            ours.forget(gpu)
            sets[gpu].clear()
        expected = []
        for held in sets:
            depth = 0
            while depth < len(prompt) and prompt[depth] in held:
                depth += 1
            expected.append(depth)
        assert ours.depths(prompt) == expected
        assert len(ours) == len(set.union(*sets))


@pytest.mark.parametrize("seed", range(5))
def test_what_was_asked_for_longest_ago_is_forgotten_ends_before_beginnings(seed: int) -> None:
    chance = random.Random(seed)
    ours, order = Whereabouts(1, 20), OrderedDict[bytes, None]()
    for _ in range(300):
        prompt = names(*(chance.randrange(3) for _ in range(chance.randrange(1, 6))))
        ours.note(prompt, 0)
        for name in reversed(prompt):
            order[name] = None
            order.move_to_end(name)
        while len(order) > 20:
            order.popitem(last=False)
        assert len(ours) == len(order)
        probe = names(*(chance.randrange(3) for _ in range(6)))
        (depth,) = ours.depths(probe)
        assert depth == next((i for i, name in enumerate(probe) if name not in order), 6)
