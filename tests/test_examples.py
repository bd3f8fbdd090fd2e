"""The examples do what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from transformers_models import save_model

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "prefix_reuse.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_second_process_reuses_what_the_first_one_read() -> None:
    first, second = json.loads(run("--size", "2", "--tokens", "300", "--json"))
    assert first["pid"] != second["pid"]
    assert first["reused_tokens"] == 0
    assert first["stored_tokens"] == second["stored_tokens"] == 320
    assert second["prompt_tokens"] == 324
    assert second["reused_tokens"] == 256  # the questions differ within the fifth block
    assert first["same_tokens"]
    assert second["same_tokens"]


def test_a_model_of_one_s_own_is_asked_in_words(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    out = run("--model", str(tmp_path / "model"), "--tokens", "200", "--store", str(tmp_path / "s"))
    assert "process 2" in out
    assert "the same tokens" in out
    assert (tmp_path / "s" / "metadata.json").exists()
