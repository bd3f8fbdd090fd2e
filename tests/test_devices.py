"""The balancer beside simple models: who is chosen, who comes back, the books."""

from __future__ import annotations

import math
import random
import threading
from typing import Any

import pytest
from device_fakes import Machine, balancer
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.devices import Ticket, Weights
from blatam_kv.errors import ConfigError, DeviceTrouble, DeviceUnavailable

# ---- what is chosen -----------------------------------------------------------------------------


def test_of_idle_queues_the_least_busy_gpu_is_chosen() -> None:
    # The original's picture: 30, 45, 20 and 15 %.
    assert balancer(Machine([0.30, 0.45, 0.20, 0.15])).choose(100).gpu == "3"


def test_requests_at_once_spread_over_all_as_their_utilisation_allows() -> None:
    # Without a margin, so that the arithmetic can be followed: each is given to the least cost.
    machine = Machine([0.30, 0.45, 0.20, 0.15])
    chooser = balancer(machine, margin=0)
    given_out = [chooser.choose(100).gpu for _ in range(40)]
    # In balance (tokens + 100) * (1 + utilisation) is the same everywhere.
    shares = {gpu: 1 / (1 + u) for gpu, u in zip("0123", machine.utilization, strict=True)}
    for gpu, share in shares.items():
        assert abs(given_out.count(gpu) - 40 * share / sum(shares.values())) <= 1
    assert given_out[:4] == ["3", "2", "0", "1"]


def test_tokens_that_are_not_done_weigh_more_than_what_is_read() -> None:
    chooser = balancer(Machine([0.0, 0.9]))
    first = chooser.choose(10_000)
    assert first.gpu == "0"
    assert chooser.choose(100).gpu == "1"
    first.progress(9_990)
    assert chooser.choose(100).gpu == "0"


def test_a_gpu_whose_memory_is_full_is_avoided() -> None:
    chooser = balancer(Machine([0.1, 0.5], used=[0.99, 0.5]))
    assert chooser.choose(100).gpu == "1"
    roomy = balancer(Machine([0.1, 0.5], used=[0.79, 0.5]))
    assert roomy.choose(100).gpu == "0"


def test_noise_does_not_move_work_from_a_gpu_that_is_as_good() -> None:
    machine = Machine([0.50, 0.50])
    chooser = balancer(machine, half_life=0.001)
    noise = random.Random(1)
    chosen = []
    for _ in range(200):
        machine.now += 1
        machine.utilization = [0.5 + noise.uniform(-0.05, 0.05) for _ in range(2)]
        chooser.read()
        ticket = chooser.choose(100)
        chosen.append(ticket.gpu)
        ticket.done()
    assert len(set(chosen)) == 1
    machine.now += 1
    machine.utilization = [0.5, 0.5]
    machine.utilization[int(chosen[-1])] = 0.9
    chooser.read()
    assert chooser.choose(100).gpu != chosen[-1]


@pytest.mark.parametrize("seed", range(5))
def test_a_monitor_that_lies_cannot_unbalance_what_is_known(seed: int) -> None:
    """The worst readings there are: idle is said of the GPU with most to do, busy of the others."""
    machine = Machine([0.0] * 4)
    chooser = balancer(machine, half_life=0.001)
    chance = random.Random(seed)
    for _ in range(400):
        machine.now += 1
        held = [snapshot.queued_tokens for snapshot in chooser.snapshots()]
        machine.utilization = [float(tokens < max(held)) for tokens in held]
        chooser.read()
        chooser.choose(chance.randrange(1, 200))
    held = [snapshot.queued_tokens for snapshot in chooser.snapshots()]
    # A GPU said to be busy is at most twice as dear, so it has at least half as much, less one.
    assert min(held) * 2 + 400 >= max(held) * (1 - Weights().margin)


def test_work_of_no_tokens_still_tells_an_idle_gpu_from_a_busy_one() -> None:
    assert balancer(Machine([0.9, 0.1])).choose(0).gpu == "1"
    with pytest.raises(ValueError, match="at least 0"):
        balancer(Machine([0.9])).choose(-1)


# ---- failures -----------------------------------------------------------------------------------


def test_a_gpu_that_fails_leaves_and_one_piece_of_work_brings_it_back() -> None:
    machine = Machine([0.1, 0.9])
    chooser = balancer(machine, first_pause=1.0)
    first = chooser.choose(10)
    assert first.gpu == "0"
    with pytest.raises(DeviceUnavailable), first:
        raise DeviceUnavailable(DeviceTrouble.LOST, "gone")
    assert [chooser.choose(10).gpu for _ in range(5)] == ["1"] * 5
    machine.now += 1.0
    trial = chooser.choose(10)
    assert trial.gpu == "0"
    assert [chooser.choose(10).gpu for _ in range(3)] == ["1"] * 3  # one at a time
    assert not chooser.snapshots()[0].in_rotation
    trial.done()
    assert chooser.snapshots()[0].in_rotation
    assert chooser.choose(10).gpu == "0"


def test_each_failure_in_a_row_doubles_the_pause_up_to_the_longest() -> None:
    machine = Machine([0.1, 0.9])
    chooser = balancer(machine, first_pause=1.0, longest_pause=8.0)
    chooser.choose(1).failed()
    for pause in (1.0, 2.0, 4.0, 8.0, 8.0):
        machine.now += pause - 0.01
        other = chooser.choose(1)
        assert other.gpu == "1"
        other.done()
        machine.now += 0.01
        trial = chooser.choose(1)
        assert trial.gpu == "0"
        trial.failed()
    machine.now += 8.0
    chooser.read()
    chooser.choose(1).done()
    chooser.choose(1, avoid="1").failed()
    machine.now += 1.0
    assert chooser.choose(1).gpu == "0"  # the first pause again


def test_a_gpu_that_is_lost_leaves_and_comes_back() -> None:
    machine = Machine([0.1, 0.9])
    chooser = balancer(machine)
    machine.broken = {"0"}
    chooser.read()
    assert chooser.choose(1).gpu == "1"
    machine.broken = set()
    machine.now += 1.0
    trial = chooser.choose(1)
    assert trial.gpu == "0"
    trial.done()
    assert chooser.snapshots()[0].in_rotation


@pytest.mark.parametrize("how", ["unsupported", "nonsense"])
def test_a_gpu_of_which_nothing_is_read_goes_on_by_what_it_was_given(how: str) -> None:
    machine = Machine([0.5, 0.5])
    chooser = balancer(machine)
    if how == "unsupported":
        machine.broken, machine.trouble = {"0"}, DeviceTrouble.FAILED
    else:
        machine.utilization[0] = math.nan
    machine.now += 60
    chooser.read()
    seen = chooser.snapshots()[0]
    assert (seen.in_rotation, seen.utilization, seen.unread) == (True, None, 1)
    assert {chooser.choose(100).gpu for _ in range(4)} == {"0", "1"}


def test_an_error_that_is_not_the_gpus_leaves_it_in_the_rotation() -> None:
    chooser = balancer(Machine([0.1, 0.9]))
    with pytest.raises(KeyError), chooser.choose(1):
        raise KeyError
    assert chooser.choose(1).gpu == "0"


def test_work_from_before_a_failure_does_not_bring_a_gpu_back() -> None:
    chooser = balancer(Machine([0.1, 0.9]))
    early, failing = (chooser.choose(1, avoid="1") for _ in range(2))
    assert early.gpu == failing.gpu == "0"
    failing.failed()
    early.done()
    assert not chooser.snapshots()[0].in_rotation


def test_where_every_gpu_has_failed_the_one_that_is_due_first_is_tried() -> None:
    machine = Machine([0.1, 0.2])
    chooser = balancer(machine, first_pause=1.0)
    chooser.choose(1).failed()
    machine.now += 0.5
    chooser.choose(1).failed()
    attempt = chooser.choose(1)
    assert attempt.gpu == "0"
    assert chooser.choose(1).gpu == "1"  # and not two of them at the same one
    attempt.done()
    assert [s.in_rotation for s in chooser.snapshots()] == [True, False]


def test_one_that_is_to_be_avoided_is_taken_only_if_there_is_no_other() -> None:
    chooser = balancer(Machine([0.0, 0.9, 0.9]))
    assert chooser.choose(1, avoid="0").gpu != "0"
    alone = balancer(Machine([0.0]))
    assert alone.choose(1, avoid="0").gpu == "0"


def test_where_somebody_probes_no_work_is_risked() -> None:
    machine = Machine([0.1, 0.9])
    chooser = balancer(machine)
    assert chooser.trials() == []
    chooser.leave("0")
    machine.now += 5.0
    assert [chooser.choose(1).gpu for _ in range(3)] == ["1"] * 3
    (probe,) = chooser.trials()
    assert (probe.gpu, chooser.trials()) == ("0", [])  # one at a time
    probe.done()
    assert chooser.choose(1).gpu == "0"


def test_who_passes_each_probe_and_fails_at_work_waits_ever_longer() -> None:
    machine = Machine([0.1, 0.9])
    chooser = balancer(machine, first_pause=1.0, longest_pause=8.0)
    chooser.trials()
    for pause in (1.0, 2.0, 4.0, 8.0, 8.0):
        chooser.choose(1, avoid="1").failed()
        machine.now += pause - 0.01
        assert chooser.trials() == []
        machine.now += 0.01
        (probe,) = chooser.trials()
        probe.done()
    chooser.choose(1, avoid="1").done()
    chooser.choose(1, avoid="1").failed()
    machine.now += 1.0
    assert len(chooser.trials()) == 1  # work succeeded: the first pause again


def test_without_a_gpu_that_is_said() -> None:
    with pytest.raises(DeviceUnavailable, match="there is no GPU"):
        balancer(Machine([])).choose(1)


# ---- the books ----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["choose", "prefix", "progress", "done", "failed", "wait", "break", "probe"]
            ),
            st.integers(0, 400),
        ),
        max_size=80,
    )
)
def test_the_books_are_those_of_the_open_tickets(steps: list[tuple[str, int]]) -> None:
    machine = Machine([0.2, 0.4, 0.6])
    chooser = balancer(machine)
    open_tickets: list[tuple[Ticket, int, bool]] = []  # ticket, tokens left, begun
    for what, number in steps:
        machine.now += 0.1
        if what in ("choose", "prefix"):
            prefix = [bytes([number % 3])] if what == "prefix" else []
            ticket = chooser.choose(number, prefix=prefix)
            open_tickets.append((ticket, number - ticket.saved_tokens, False))
        elif what == "probe":
            open_tickets += [(ticket, 0, False) for ticket in chooser.trials()]
        elif what == "wait":
            machine.now += number / 10
        elif what == "break":
            machine.broken ^= {str(number % 3)}
            chooser.read()
        elif open_tickets:
            i = number % len(open_tickets)
            ticket, left, _ = open_tickets[i]
            if what == "progress":
                ticket.progress(number)
                open_tickets[i] = ticket, max(left - number, 0), True
            else:
                open_tickets.pop(i)
                ticket.done() if what == "done" else ticket.failed()
                ticket.done()  # once more changes nothing
        for snapshot in chooser.snapshots():
            own = [each for each in open_tickets if each[0].gpu == snapshot.gpu]
            assert snapshot.in_flight == len(own)
            assert snapshot.queued_tokens == sum(left for _, left, begun in own if not begun)
            assert snapshot.in_flight_tokens == sum(left for _, left, begun in own if begun)


def test_threads_keep_the_books_too() -> None:
    machine = Machine([0.2, 0.4, 0.6, 0.8])
    chooser = balancer(machine)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            with chooser.choose(chance.randrange(100)) as ticket:
                ticket.progress(chance.randrange(120))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        s.in_flight == s.queued_tokens == s.in_flight_tokens == 0 for s in chooser.snapshots()
    )


@pytest.mark.parametrize(
    "weights",
    [
        {"busy": -1}, {"half_life": 0}, {"stale": -1}, {"roomy": 1.0}, {"margin": 1},
        {"skew": -0.1}, {"longest_pause": 0.5}, {"block_tokens": 0}, {"busy": math.nan},
    ],
)  # fmt: skip
def test_impossible_weights_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Weights(**weights)
