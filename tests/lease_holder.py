"""A node in a process of its own: writes one answer, under a lease of ten minutes, when it is let.

    python lease_holder.py URL

Says ``writing`` when the lease is its own, and ``written`` when the answer is; writes when a line comes.
"""

from __future__ import annotations

import sys

from blatam_kv.bul.pipeline import Answer
from blatam_kv.bul.shared import Shared
from blatam_kv.tiers.redis import RedisTier
from blatam_kv.truthgpt.protocol import Usage

DIGEST, SALT = b"d" * 32, b"s" * 32
LEASE_SECONDS = 600.0


def shared(url: str, *, settled: float = 0.0) -> Shared:
    """What a node shares."""
    tier = RedisTier(url, timeout=10.0)
    return Shared(tier, ttl=None, lease_seconds=LEASE_SECONDS, settled_seconds=settled)


def answer_of(text: str) -> Answer:
    """One that says this."""
    return Answer(
        title="Title",
        text=text,
        finish_reason="stop",
        usage=Usage(5, 7, 1),
        seconds=0.25,
        seconds_to_first_text=0.125,
        born=1.0,
        model="scripted",
    )


def main() -> None:
    here = shared(sys.argv[1])
    assert here._notices.listening.wait(60)

    def compute() -> Answer:
        print("writing", flush=True)
        sys.stdin.readline()
        return answer_of("its own")

    here.once(DIGEST, SALT, compute)
    print("written", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
