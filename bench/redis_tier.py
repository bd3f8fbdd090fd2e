"""What verification costs of a hit in Redis: the tier beside redis-py's own GET of the same bytes.

Both on one connection over a Unix socket of a server started here, interleaved; each round reads every
key once. CPU of this thread, so that the server's work and other processes count for neither.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from blatam_kv.record import Kind, Record
from blatam_kv.tiers.redis import RedisTier

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

TARGET = 1.3
ROUNDS = 15


def seconds(call: Callable[[int], object], times: int) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    cpu, wall = time.thread_time(), time.perf_counter()
    for number in range(times):
        call(number)
    return (time.thread_time() - cpu) / times, (time.perf_counter() - wall) / times


def compare(url: str, size: int, keys: int) -> None:
    """Print one line."""
    import redis

    tier = RedisTier(url, timeout=10.0)
    names = [number.to_bytes(32, "little") for number in range(keys)]
    payload = bytes(range(256)) * (size // 256)
    tier.put_many(Record(name, Kind.RESPONSE, payload) for name in names)
    own = redis.Redis.from_url(url)
    theirs = [f"blatam-kv:1:{name.hex()}".encode() for name in names]
    for name, their in zip(names, theirs, strict=True):
        (record,) = tier.get_many([name])
        value = own.get(their)
        assert record is not None
        assert record.payload == payload
        assert isinstance(value, bytes)
        assert payload in value
    rounds = [
        (
            seconds(lambda at: tier.get_many([names[at]]), keys),
            seconds(lambda at: own.get(theirs[at]), keys),
        )
        for _ in range(ROUNDS)
    ]
    cpu = statistics.median(ours[0] / other[0] for ours, other in rounds)
    wall = statistics.median(ours[1] / other[1] for ours, other in rounds)
    ours, other = (statistics.median(pair[which][1] for pair in rounds) for which in (0, 1))
    mark = "ok" if wall <= TARGET else "MISSED"
    print(
        f"{size >> 10:5d} KiB  {ours * 1e6:8.1f} us  {other * 1e6:8.1f} us  wall {wall:.2f}  "
        f"CPU {cpu:.2f}  target {TARGET}  {mark}"
    )
    tier.clear()
    tier.close()


def main() -> None:
    """Print the table."""
    from redis_server import redis

    print(" value     blatam-kv     redis-py  (medians of a hit; ratios of pairs of rounds)")
    with redis() as server:
        for size, keys in ((1 << 10, 400), (4 << 10, 400), (128 << 10, 100), (2 << 20, 10)):
            compare(server.url, size, keys)


if __name__ == "__main__":
    main()
