"""The balancer under series of readings, the seed's, recorded-like and hostile, and whole runs of work.

What must hold whatever is read: no work for a GPU that is out while another lives, nobody ahead by
more than readings may make of it, every GPU gets work, and who is chosen does not flap.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from device_fakes import Machine, balancer
from hypothesis import given, settings
from hypothesis import strategies as st

from blatam_kv.devices import Ticket
from blatam_kv.errors import DeviceTrouble

# What a monitor reads of a GPU at a step; None: the GPU has vanished.
Series = Callable[[int], float | None]
SEED = (0.30, 0.45, 0.20, 0.15)  # the original's picture
SERIES: dict[str, Series] = {
    "idle": lambda step: 0.0,
    "stuck": lambda step: 1.0,
    "oscillating": lambda step: float(step % 2),
    "slow wave": lambda step: 0.5 + 0.5 * math.sin(step / 7),
    "noise": lambda step: random.Random(step).random(),
    "nonsense": lambda step: math.nan if step % 3 else 0.5,
    "too much": lambda step: 1.7,
    "vanishing": lambda step: None if step % 40 > 20 else 0.1,
    "gone": lambda step: None,
} | {f"seed {share:.0%}": partial(lambda share, step: share, share) for share in SEED}


def play(machine: Machine, series: list[Series], step: int, *, passed: float) -> None:
    """One step of each GPU's series."""
    machine.now += passed
    for i, each in enumerate(series):
        read = each(step)
        machine.broken = machine.broken - {str(i)} | (set() if read is not None else {str(i)})
        machine.utilization[i] = 0.0 if read is None else read


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(sorted(SERIES)), min_size=1, max_size=5),
    st.lists(
        st.tuples(
            st.sampled_from(["choose", "prefix", "done", "failed", "probe"]),
            st.integers(0, 500),
            st.sampled_from([0.0, 0.01, 0.5, 3.0, 90.0, -0.5, -3600.0]),
        ),
        max_size=80,
    ),
)
def test_whatever_is_read_work_goes_to_a_gpu_that_lives_and_none_is_far_ahead(
    names: list[str], steps: list[tuple[str, int, float]]
) -> None:
    machine = Machine([0.0] * len(names))
    series = [SERIES[name] for name in names]
    chooser = balancer(machine)
    chooser.trials()
    held: list[Ticket] = []
    for step, (what, number, passed) in enumerate(steps):
        play(machine, series, step, passed=passed)
        chooser.read()
        before = {each.gpu: each for each in chooser.snapshots()}
        ahead = {
            gpu: each.in_flight_tokens + each.queued_tokens + each.in_flight
            for gpu, each in before.items()
        }
        if what in ("choose", "prefix"):
            prefix = [bytes([number % 3])] if what == "prefix" else []
            ticket = chooser.choose(number, prefix=prefix)
            held.append(ticket)
            living = {gpu for gpu, each in before.items() if each.in_rotation}
            assert ticket.gpu in (living or before)
            if living:
                # Busy makes a GPU at most twice as dear, memory here nothing, and the margin is a
                # ninth of the work: what is known of the others bounds what the chosen one has.
                most = 2 * (min(ahead[gpu] for gpu in living) + (number + 1) * 10 / 9)
                assert ahead[ticket.gpu] + number - ticket.saved_tokens + 1 <= most + 1e-6
        elif what == "probe":
            held += chooser.trials()
        elif held:
            ticket = held.pop(number % len(held))
            ticket.done() if what == "done" else ticket.failed()


@pytest.mark.parametrize("name", sorted(SERIES))
def test_no_gpu_that_lives_starves_whatever_the_others_read(name: str) -> None:
    machine = Machine([0.0] * 4)
    series = [SERIES[name], *(SERIES[f"seed {share:.0%}"] for share in SEED[1:])]
    chooser = balancer(machine)
    for step in range(400):
        play(machine, series, step, passed=0.25)
        chooser.read()
        for probe in chooser.trials():
            probe.done() if probe.gpu not in machine.broken else probe.failed()
        chooser.choose(100)
    given_out = {each.gpu: each.routed for each in chooser.snapshots()}
    living = {gpu: count for gpu, count in given_out.items() if gpu != "0" or name not in ("gone",)}
    assert min(living.values()) >= 400 / 4 / 2.5


@pytest.mark.parametrize("name", ["oscillating", "noise", "slow wave", "nonsense"])
def test_readings_alone_do_not_make_the_choice_flap(name: str) -> None:
    """One piece of work after the other: two GPUs that read alike, a moment apart."""
    machine = Machine([0.0] * 2)
    chooser = balancer(machine)
    one = SERIES[name]
    chosen = []
    for step in range(600):
        play(machine, [one, lambda step: one(step + 1)], step, passed=0.25)
        chooser.read()
        with chooser.choose(100) as ticket:
            chosen.append(ticket.gpu)
    changes = sum(one != other for one, other in pairwise(chosen))
    naive = sum(
        (machine_read(one, step) < machine_read(one, step + 1))
        != (machine_read(one, step + 1) < machine_read(one, step + 2))
        for step in range(599)
    )
    assert changes <= max(naive / 10, 40)


def machine_read(one: Series, step: int) -> float:
    read = one(step)
    return 0.0 if read is None or not 0 <= read <= 1 else read


def test_a_gpu_that_comes_and_goes_is_out_for_longer_each_time() -> None:
    machine = Machine([0.0, 0.0])
    chooser = balancer(machine, first_pause=1.0, longest_pause=60.0)
    chooser.trials()
    left = 0
    for _ in range(1200):  # five minutes of looks; it passes every probe and is lost at the next
        machine.now += 0.25
        machine.broken = {"0"} if chooser.snapshots()[0].in_rotation else set()
        before = chooser.snapshots()[0].in_rotation
        chooser.read()
        left += before and not chooser.snapshots()[0].in_rotation
        for probe in chooser.trials():
            probe.done()
    # 1, 2, 4, ... 60 and then every minute.
    assert 6 <= left <= 12


def test_a_gpu_that_is_unreadable_for_another_reason_stays() -> None:
    machine = Machine([0.2, 0.2])
    machine.broken, machine.trouble = {"0", "1"}, DeviceTrouble.FAILED
    chooser = balancer(machine)
    assert all(each.in_rotation for each in chooser.snapshots())


def test_the_seeds_picture_is_balanced_as_it_says() -> None:
    chooser = balancer(Machine(SEED), margin=0)
    order = [chooser.choose(1000).gpu for _ in range(4)]
    assert order == ["3", "2", "0", "1"]  # the least busy first


# ---- a simulation, and its oracle ---------------------------------------------------------------


def finish_times(
    arrivals: list[tuple[float, int]], speeds: list[float], chooser: Any
) -> list[float]:
    """When each request is done on GPUs that work one token after the other. ``chooser`` is told
    the time and the tokens, and says which GPU."""
    free_at = [0.0] * len(speeds)
    done = []
    for at, tokens in arrivals:
        gpu = chooser(at, tokens, free_at)
        free_at[gpu] = max(free_at[gpu], at) + tokens / speeds[gpu]
        done.append(free_at[gpu] - at)
    return done


@pytest.mark.parametrize("pattern", ["steady", "bursts", "elephants"])
def test_waiting_is_close_to_what_knowing_all_queues_would_give(pattern: str) -> None:
    chance = random.Random(7)
    now, arrivals = 0.0, []
    for i in range(2000):
        now += chance.expovariate(3.0) if pattern != "bursts" or i % 50 == 0 else 0.0
        tokens = int(chance.expovariate(1 / 1000)) + 1
        arrivals.append((now, 20_000 if pattern == "elephants" and i % 40 == 0 else tokens))
    speeds = [1000.0] * 4

    def oracle(at: float, tokens: int, free_at: list[float]) -> int:
        ends = [max(free, at) + tokens / speed for free, speed in zip(free_at, speeds, strict=True)]
        return ends.index(min(ends))

    machine = Machine([0.0] * 4)
    chooser = balancer(machine)
    running: list[tuple[float, float, Ticket]] = []  # ends, begins, ticket

    def ours(at: float, tokens: int, free_at: list[float]) -> int:
        machine.now = 100.0 + at
        for item in sorted(running, key=lambda item: item[0]):
            if item[0] <= at:
                item[2].done()
                running.remove(item)
        # What a monitor sees: whether a GPU was busy, noisily.
        machine.utilization = [
            min(max(float(free > at) + chance.uniform(-0.1, 0.1), 0.0), 1.0) for free in free_at
        ]
        chooser.read()
        ticket = chooser.choose(tokens)
        gpu = int(ticket.gpu)
        begins = max(free_at[gpu], at)
        running.append((begins + tokens / speeds[gpu], begins, ticket))
        return gpu

    def blind(at: float, tokens: int, free_at: list[float]) -> int:
        return int(at * 1000 + tokens) % 4

    best = finish_times(arrivals, speeds, oracle)
    mine = finish_times(arrivals, speeds, ours)
    random_choice = finish_times(arrivals, speeds, blind)
    assert sum(mine) <= 1.35 * sum(best)
    assert sum(mine) < sum(random_choice)
    assert chooser.snapshots()
