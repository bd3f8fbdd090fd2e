"""docs/OPERATIONS.md: every command in it runs, and prints what stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "OPERATIONS.md"
ORIGINAL = Path(__file__).parent / "data" / "original" / "v1"

# What differs from one run to the next: dates, and paths that the command makes absolute.
_DATES = re.compile(r"\d{8}_\d{6}(_\d+)?|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def steady(line: str) -> str:
    """A line without what differs; columns may be wider, too."""
    return " ".join(_DATES.sub("*", line).split())


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of the page's consoles, and the lines it prints; [n] is its exit status."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        command, output = "", list[str]()
        quoted = False
        for line in block.splitlines():
            if quoted:
                command += "\n" + line
                quoted = '"' not in line
            elif line.startswith("$ "):
                if command:
                    yield command, output
                command, output = line[2:], []
                quoted = command.count('"') % 2 == 1
            else:
                output.append(line)
        if command:
            yield command, output


def test_every_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    shutil.copytree(ORIGINAL, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["kv_cache_strategy"] = "lfu"
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = list(commands(PAGE.read_text()))
    assert len(found) > 12
    for command, expected in found:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        said = (done.stdout + done.stderr).replace(f"{tmp_path}/", "")
        lines = said.splitlines() + ([f"[{done.returncode}]"] if done.returncode else [])
        assert [steady(line) for line in lines] == [steady(line) for line in expected], command
