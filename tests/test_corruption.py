"""bench/corruption.py: what it finds in our store, and that it finds what is wrong in others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "corruption.py"
COUNTS = ("--flips", "60", "--cuts", "24", "--swaps", "6", "--kills", "4", "--json")


def outcomes(name: str) -> dict[str, dict[str, int]]:
    """By case, how often it ended how, of the one store with this name."""
    command = [sys.executable, str(SCRIPT), "--only", name, *COUNTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: Any = json.loads(done.stdout)
    (each,) = found.values()
    return dict(each)


def test_no_damage_makes_our_store_serve_a_wrong_value_or_raise() -> None:
    found = outcomes("blatam_kv")
    assert sum(found["flip"].values()) == 60
    assert sum(found["kill"].values()) == 4
    for case, ended in found.items():
        assert ended.keys() <= {"miss", "harmless"}, case
    assert found["flip"]["miss"]  # or nothing was damaged


@pytest.mark.parametrize(
    ("name", "case", "outcome"),
    [
        ("numpy.save", "flip", "wrong"),  # no checksum
        ("numpy.save", "swap", "wrong"),  # the file does not say whose value it holds
        ("shelve", "flip", "wrong"),
        ("SQLite", "cut", "closed"),
    ],
)
def test_it_finds_what_others_let_through(name: str, case: str, outcome: str) -> None:
    assert outcomes(name)[case].get(outcome)
