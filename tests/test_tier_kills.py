"""kill -9 at hundreds of moments, most of them in the middle of a write: nothing wrong, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 1000 if os.environ.get("BLATAM_KV_SOAK") else 200


@pytest.mark.parametrize("seed", [1])
def test_a_killed_writer_loses_nothing_and_leaves_nothing_wrong(tmp_path: Path, seed: int) -> None:
    loop = Path(__file__).with_name("kill_loop.py")
    done = subprocess.run(
        [sys.executable, str(loop), str(KILLS), str(seed), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    counts = json.loads(done.stdout)
    print(counts)
    assert counts["kills"] == KILLS
    assert counts["inside"] * 4 >= 3 * KILLS
    assert counts["steps"] > KILLS
    assert counts["behind"] == KILLS // 4
