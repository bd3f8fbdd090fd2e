"""What a cache leaves behind: nothing, whether it is dropped, forked or alive at exit."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap

import pytest

from blatam_kv._core import policies


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The address sanitizer keeps what is freed in quarantine, which would look like a leak.
    sanitizer = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=0"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "ASAN_OPTIONS": sanitizer,
        },
    )


# What is allocated, to the byte. The resident size would also tell how well malloc could pack it.
ALLOCATED = """
import ctypes

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)

def allocated():
    sanitizer = getattr(libc, "__sanitizer_get_current_allocated_bytes", None)
    if sanitizer is not None:
        sanitizer.restype = ctypes.c_size_t
        return sanitizer()
    libc.mallinfo2.restype = Mallinfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.parametrize("policy", policies())
def test_memory_comes_back(policy: str) -> None:
    """Many caches leave no more allocated than a few."""
    done = run(
        ALLOCATED
        + textwrap.dedent(
            """
            import gc, sys
            import blatam_kv as kv

            def live(policy):
                cache = kv.Cache(capacity=500, capacity_bytes=300_000, policy=policy, ttl=9,
                                 idle_ttl=5, on_evict=lambda *_: None, sizeof=lambda _: 100)
                for i in range(1500):
                    cache.put((i % 900, "key"), bytes(200), cost=i % 5)
                    cache.get((i % 700, "key"))
                    if i % 7 == 0:
                        cache.pin((i % 900, "key"))
                        cache.delete((i % 900, "key"))
                cache.get_many([(i, "key") for i in range(50)])
                cache.resize(100)
                cache.clear()
                cache.put("self", cache)

            sizes, blocks = [], []
            for _ in range(2):
                for _ in range(40):
                    live(sys.argv[1])
                gc.collect()
                sizes.append(allocated())
                blocks.append(sys.getallocatedblocks())
            print(sizes[1] - sizes[0], blocks[1] - blocks[0])
            """
        ),
        policy,
    )
    assert done.returncode == 0, done.stderr
    more_bytes, more_blocks = map(int, done.stdout.split())
    assert more_bytes < 40_000, "half of one cache; 40 would be more than 3,000,000"
    assert more_blocks < 500


def test_a_forked_child_computes_what_a_thread_was_computing() -> None:
    done = run(
        """
        import os, signal, threading, warnings
        import blatam_kv as kv

        warnings.simplefilter("ignore")  # of a fork beside threads, which is what this is about
        cache = kv.Cache(capacity=10)
        started, gate = threading.Event(), threading.Event()

        def slow():
            started.set()
            gate.wait()
            return 1

        thread = threading.Thread(target=cache.get_or_compute, args=("k", slow))
        thread.start()
        started.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # that thread is not here: who waits for it waits for ever
            os._exit(cache.get_or_compute("k", lambda: 2))
        gate.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert cache["k"] == 1
        """
    )
    assert done.returncode == 0, done.stderr


def test_fork_after_use() -> None:
    """The child has its own copy; neither sees what the other does."""
    done = run(
        """
        import os
        import blatam_kv as kv

        cache = kv.Cache(capacity=3)
        for i in range(3):
            cache[i] = str(i)
        child = os.fork()
        if child == 0:
            cache[3] = "3"
            assert [cache.get(i) for i in range(4)] == [None, "1", "2", "3"]
            cache.clear()
            assert len(cache) == 0
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert cache.items() == [(0, "0"), (1, "1"), (2, "2")]
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["falls off the end", "sys.exit", "raises", "cycle", "thread"])
def test_interpreter_shuts_down_with_entries_alive(how: str) -> None:
    done = run(
        """
        import sys, threading
        import blatam_kv as kv

        class Loud:
            def __del__(self):
                # Modules may be gone by now; the cache itself must still answer.
                cache.get("x")
                cache.put("late", 1)

        cache = kv.Cache(capacity=4, on_evict=lambda *_: None)
        other = kv.Cache(capacity=100)
        for i in range(10):
            cache[i] = Loud()
            other[i] = bytes(1000)
        how = sys.argv[1]
        if how == "cycle":
            cache["me"] = cache
            cache["other"], other["cache"] = other, cache
        elif how == "thread":
            threading.Thread(target=lambda: [cache.get(i) for i in range(1000)], daemon=True).start()
        elif how == "sys.exit":
            sys.exit(0)
        elif how == "raises":
            sys.excepthook = lambda *_: None
            raise ValueError
        """,
        how,
    )
    assert done.returncode == (1 if how == "raises" else 0), done.stderr
    assert "Fatal" not in done.stderr
