"""The balancer beside simple models: who is chosen, what a prefix may cost, who comes back."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv import cli
from blatam_kv.devices import Balancer, NvmlMonitor, Reading, Ticket, Weights
from blatam_kv.devices.reading import Smoothed
from blatam_kv.errors import ConfigError, DeviceTrouble, DeviceUnavailable

GIB = 1 << 30


class Machine:
    """GPUs as a test wants them, and a clock."""

    def __init__(self, utilization: Sequence[float], used: Sequence[float] | None = None) -> None:
        self.now = 100.0
        self.utilization = list(utilization)
        self.used = list(used or [0.1] * len(utilization))
        self.broken: set[str] = set()
        self.reads = 0

    def clock(self) -> float:
        return self.now

    def gpus(self) -> list[str]:
        return [str(i) for i in range(len(self.utilization))]

    def read(self, gpu: str) -> Reading:
        self.reads += 1
        if gpu in self.broken:
            raise DeviceUnavailable(DeviceTrouble.LOST, f"GPU {gpu} has fallen off the bus")
        i = int(gpu)
        return Reading(
            utilization=self.utilization[i],
            used_bytes=int(self.used[i] * 80 * GIB),
            total_bytes=80 * GIB,
            at=self.now,
        )


def balancer(machine: Machine, **weights: float) -> Balancer:
    return Balancer(machine, weights=Weights(**weights), clock=machine.clock)


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
        ticket = chooser.choose(100)
        chosen.append(ticket.gpu)
        ticket.done()
    assert len(set(chosen)) == 1
    machine.now += 1
    machine.utilization = [0.5, 0.5]
    machine.utilization[int(chosen[-1])] = 0.9
    assert chooser.choose(100).gpu != chosen[-1]


@pytest.mark.parametrize("seed", range(5))
def test_a_monitor_that_lies_cannot_unbalance_what_is_known(seed: int) -> None:
    """The worst readings there are: idle is said of the GPU with most to do, busy of the others."""
    machine = Machine([0.0] * 4)
    chooser = balancer(machine, interval=0.0, half_life=0.001)
    chance = random.Random(seed)
    for _ in range(400):
        machine.now += 1
        held = [snapshot.queued_tokens for snapshot in chooser.snapshots()]
        machine.utilization = [float(tokens < max(held)) for tokens in held]
        machine.now += 1
        chooser.choose(chance.randrange(1, 200))
    held = [snapshot.queued_tokens for snapshot in chooser.snapshots()]
    # A GPU said to be busy is at most twice as dear, so it has at least half as much, less one.
    assert min(held) * 2 + 400 >= max(held) * (1 - Weights().margin)


def test_work_of_no_tokens_still_tells_an_idle_gpu_from_a_busy_one() -> None:
    assert balancer(Machine([0.9, 0.1])).choose(0).gpu == "1"
    with pytest.raises(ValueError, match="at least 0"):
        balancer(Machine([0.9])).choose(-1)


# ---- readings -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), min_size=1, max_size=30))
def test_smoothing_is_the_weighted_mean_over_time(steps: list[tuple[float, float]]) -> None:
    smoothed = Smoothed(half_life=2.0, stale=10.0)
    now, mean = 50.0, None
    for gap, utilization in steps:
        now += gap
        kept = 0.5 ** (gap / 2.0)
        mean = utilization if mean is None else kept * mean + (1 - kept) * utilization
        smoothed.add(Reading(utilization=utilization, used_bytes=0, total_bytes=1, at=now), now)
        assert smoothed.mean(now) == pytest.approx(mean)
    assert smoothed.mean(now + 9.9) is not None
    assert smoothed.mean(now + 10.1) is None


def test_readings_that_are_old_or_from_the_future_are_ignored() -> None:
    smoothed = Smoothed(half_life=2.0, stale=10.0)

    def reading(utilization: float, at: float) -> Reading:
        return Reading(utilization=utilization, used_bytes=0, total_bytes=1, at=at)

    smoothed.add(reading(0.9, 5.0), 50.0)
    assert smoothed.mean(50.0) is None
    smoothed.add(reading(0.9, 51.0), 50.0)
    assert smoothed.mean(51.0) is None
    smoothed.add(reading(0.4, 50.0), 50.0)
    smoothed.add(reading(0.9, 49.0), 50.0)
    smoothed.add(reading(0.9, 50.0), 50.0)
    assert smoothed.mean(50.0) == 0.4


def test_a_monitor_that_stands_still_is_not_believed() -> None:
    machine = Machine([0.1, 0.9])
    frozen = {gpu: machine.read(gpu) for gpu in machine.gpus()}
    chooser = Balancer(
        SimpleNamespace(gpus=machine.gpus, read=frozen.__getitem__), clock=machine.clock
    )
    assert chooser.snapshots()[1].utilization == 0.9
    machine.now += 60
    assert [snapshot.utilization for snapshot in chooser.snapshots()] == [None, None]
    assert chooser.choose(10).gpu in "01"


@pytest.mark.parametrize(
    "bad",
    [
        {"utilization": 1.1}, {"utilization": -0.1}, {"utilization": math.nan},
        {"used_bytes": 11}, {"used_bytes": -1},
    ],
)  # fmt: skip
def test_an_impossible_reading_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it must be 0 to"):
        Reading(**{"utilization": 0.5, "used_bytes": 1, "total_bytes": 10, "at": 0.0, **bad})


def test_readings_are_taken_no_more_often_than_asked() -> None:
    machine = Machine([0.1, 0.2])
    chooser = balancer(machine, interval=1.0)
    for _ in range(100):
        chooser.choose(1).done()
    assert machine.reads == 2
    machine.now += 1
    chooser.choose(1).done()
    assert machine.reads == 4


# ---- prefixes -----------------------------------------------------------------------------------


def test_a_prefix_stays_where_it_is_and_moves_only_with_its_gpu() -> None:
    machine = Machine([0.1] * 4)
    prefixes = [bytes([i]) * 32 for i in range(100)]

    def homes() -> dict[bytes, str]:
        chooser = balancer(machine)  # another process
        found = {}
        for prefix in prefixes:
            with chooser.choose(10, prefix=prefix) as ticket:
                found[prefix] = ticket.gpu
        return found

    before = homes()
    assert before == homes()
    assert set(before.values()) == set("0123")
    machine.broken = {"2"}
    after = homes()
    assert all(after[prefix] == home for prefix, home in before.items() if home != "2")
    assert "2" not in after.values()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 500)), max_size=60),
    st.floats(0, 2),
)
def test_affinity_never_loads_a_gpu_beyond_the_skew(
    work: list[tuple[int, int]], skew: float
) -> None:
    machine = Machine([0.5] * 4)
    chooser = balancer(machine, skew=skew)
    for which, tokens in work:
        held = {s.gpu: s.queued_tokens for s in chooser.snapshots()}
        ticket = chooser.choose(tokens, prefix=bytes([which]))
        mean = (sum(held.values()) + tokens) / 4
        if held[ticket.gpu] > 0:
            assert held[ticket.gpu] + tokens <= max((1 + skew) * mean, min(held.values()) + tokens)


def test_a_popular_prefix_spreads_in_its_own_order() -> None:
    chooser = balancer(Machine([0.5] * 4), skew=0.25)
    chosen = [chooser.choose(100, prefix=b"popular").gpu for _ in range(40)]
    assert max(chosen.count(gpu) for gpu in "0123") <= 1.25 * 40 / 4
    assert chosen[0] == max("0123", key=chosen.count)
    again = balancer(Machine([0.5] * 4), skew=0.25)
    assert [again.choose(100, prefix=b"popular").gpu for _ in range(40)] == chosen


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
    assert not chooser.snapshots()[0].healthy
    trial.done()
    assert chooser.snapshots()[0].healthy
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
    chooser.choose(1).done()
    chooser.choose(1).failed()
    machine.now += 1.0
    assert chooser.choose(1).gpu == "0"  # the first pause again


def test_a_gpu_that_cannot_be_read_leaves_and_comes_back() -> None:
    machine = Machine([0.1, 0.9])
    chooser = balancer(machine)
    machine.broken = {"0"}
    assert chooser.choose(1).gpu == "1"
    machine.broken = set()
    machine.now += 1.0
    trial = chooser.choose(1)
    assert trial.gpu == "0"
    trial.done()
    assert chooser.snapshots()[0].healthy


def test_an_error_that_is_not_the_gpus_leaves_it_in_the_rotation() -> None:
    chooser = balancer(Machine([0.1, 0.9]))
    with pytest.raises(KeyError), chooser.choose(1):
        raise KeyError
    assert chooser.choose(1).gpu == "0"


def test_work_from_before_a_failure_does_not_bring_a_gpu_back() -> None:
    chooser = balancer(Machine([0.1]))
    early, failing = chooser.choose(1), chooser.choose(1)
    failing.failed()
    early.done()
    assert not chooser.snapshots()[0].healthy
    with pytest.raises(DeviceUnavailable, match="waits to be tried"):
        chooser.choose(1)


def test_without_a_gpu_that_is_said() -> None:
    with pytest.raises(DeviceUnavailable, match="there is no GPU"):
        balancer(Machine([])).choose(1)


# ---- the books ----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["choose", "prefix", "progress", "done", "failed", "wait", "break"]),
            st.integers(0, 400),
        ),
        max_size=80,
    )
)
def test_the_books_are_those_of_the_open_tickets(steps: list[tuple[str, int]]) -> None:
    machine = Machine([0.2, 0.4, 0.6])
    chooser = balancer(machine)
    open_tickets: list[tuple[Ticket, int]] = []
    for what, number in steps:
        machine.now += 0.1
        if what in ("choose", "prefix"):
            prefix = bytes([number % 3]) if what == "prefix" else None
            try:
                open_tickets.append((chooser.choose(number, prefix=prefix), number))
            except DeviceUnavailable:
                assert not any(snapshot.healthy for snapshot in chooser.snapshots())
        elif what == "wait":
            machine.now += number / 10
        elif what == "break":
            machine.broken ^= {str(number % 3)}
        elif open_tickets:
            i = number % len(open_tickets)
            ticket, left = open_tickets[i]
            if what == "progress":
                ticket.progress(number)
                open_tickets[i] = ticket, max(left - number, 0)
            else:
                open_tickets.pop(i)
                ticket.done() if what == "done" else ticket.failed()
                ticket.done()  # once more changes nothing
        expected: Mapping[str, list[int]] = {
            gpu: [left for ticket, left in open_tickets if ticket.gpu == gpu]
            for gpu in machine.gpus()
        }
        for snapshot in chooser.snapshots():
            assert snapshot.in_flight == len(expected[snapshot.gpu])
            assert snapshot.queued_tokens == sum(expected[snapshot.gpu])


def test_threads_keep_the_books_too() -> None:
    machine = Machine([0.2, 0.4, 0.6, 0.8])
    chooser = balancer(machine, interval=0.0)

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
    assert all(s.in_flight == s.queued_tokens == 0 for s in chooser.snapshots())


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


# ---- NVML ---------------------------------------------------------------------------------------


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML {value}")
        self.value = value


def nvml(**changes: Any) -> Any:
    """The part of pynvml that is used, of a machine with two GPUs."""
    calls: list[str] = []
    module = SimpleNamespace(
        NVMLError=NVMLError, NVML_ERROR_GPU_IS_LOST=15, calls=calls,
        nvmlInit=lambda: calls.append("init"), nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetMemoryInfo=lambda h: SimpleNamespace(used=10 * GIB, total=80 * GIB),
        nvmlDeviceGetUtilizationRates=lambda h: SimpleNamespace(gpu=30 + h),
        nvmlDeviceGetName=lambda h: b"NVIDIA H100",
    )  # fmt: skip
    for name, value in changes.items():
        setattr(module, name, value)
    return module


def failing(value: int) -> Any:
    def call(*_: Any) -> None:
        raise NVMLError(value)

    return call


def test_nvml_is_read_and_closed() -> None:
    module = nvml()
    with NvmlMonitor(clock=lambda: 5.0, nvml=module) as monitor:
        assert monitor.gpus() == ["0", "1"]
        assert monitor.read("1") == Reading(
            utilization=0.31, used_bytes=10 * GIB, total_bytes=80 * GIB, at=5.0
        )
        assert monitor.name("0") == "NVIDIA H100"
    assert module.calls == ["init", "shutdown"]
    monitor.close()
    assert module.calls == ["init", "shutdown"]
    with pytest.raises(DeviceUnavailable, match="closed"):
        monitor.read("0")


@pytest.mark.parametrize(("value", "reason"), [(15, DeviceTrouble.LOST), (3, DeviceTrouble.FAILED)])
def test_a_gpu_that_nvml_lost_is_said_to_be_lost(value: int, reason: DeviceTrouble) -> None:
    monitor = NvmlMonitor(nvml=nvml(nvmlDeviceGetUtilizationRates=failing(value)))
    with pytest.raises(DeviceUnavailable, match="GPU 1 cannot be read") as caught:
        monitor.read("1")
    assert caught.value.reason is reason


def test_without_a_driver_that_is_said() -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        NvmlMonitor(nvml=nvml(nvmlInit=failing(9)))
    assert caught.value.reason is DeviceTrouble.NO_DRIVER


def test_the_command_shows_each_gpu_and_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    from blatam_kv.cli.devices import devices

    assert devices(as_json=True, monitor=NvmlMonitor(nvml=nvml())) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(gpu["gpu"], gpu["name"], gpu["utilization"]) for gpu in report["gpus"]] == [
        ("0", "NVIDIA H100", 0.3),
        ("1", "NVIDIA H100", 0.31),
    ]
    assert (report["next"], report["reason"]) == ("0", None)


def test_the_command_says_why_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gpus"] or report["reason"]
    assert report["kernels"]
    assert cli.main(["devices"]) == 0
    assert "kernels" in capsys.readouterr().out


@pytest.mark.parametrize(
    "weights",
    [
        {"busy": -1}, {"half_life": 0}, {"stale": -1}, {"roomy": 1.0}, {"margin": 1},
        {"skew": -0.1}, {"longest_pause": 0.5},
    ],
)  # fmt: skip
def test_impossible_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Weights(**weights)
