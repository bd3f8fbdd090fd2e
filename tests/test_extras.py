"""A small core, and an extra for each thing beyond it; what is missing is said with its remedy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_layers import imports_of

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: Mapping[str, list[str]] = PROJECT["optional-dependencies"]

# Where a library is imported under another name than it is installed by.
INSTALLED_AS = {
    "docx": "python-docx",
    "markdown_it": "markdown-it-py",
    "opentelemetry": "opentelemetry-sdk",
    "prometheus_client": "prometheus-client",
    "pynvml": "nvidia-ml-py",
    "yaml": "pyyaml",
}
# Libraries that another one brings, or its extra: uvicorn[standard].
BROUGHT_BY = {"anyio": "starlette", "httptools": "uvicorn", "uvloop": "uvicorn"}


def distributions(requirements: list[str]) -> set[str]:
    """The projects that some requirements name, extras of our own unfolded."""
    found = set()
    for requirement in requirements:
        own = re.fullmatch(r"blatam-kv\[([\w,-]+)\]", requirement)
        if own:
            for extra in own[1].split(","):
                found |= distributions(EXTRAS[extra])
        else:
            name = re.match(r"[A-Za-z0-9._-]+", requirement)
            assert name, requirement
            found.add(name[0].lower())
    return found


def test_the_core_needs_little() -> None:
    assert distributions(PROJECT["dependencies"]) == {"numpy", "safetensors", "tqdm"}


def test_the_promised_extras_exist() -> None:
    promised = "server documents redis postgres local gpu otel plots cuda-build test all"
    assert set(promised.split()) <= set(EXTRAS)


def test_all_is_everything_a_user_may_want() -> None:
    wanted = set(EXTRAS) - {"all", "test", "cuda-build"}
    assert distributions(EXTRAS["all"]) == set().union(
        *(distributions(EXTRAS[extra]) for extra in wanted)
    )


def test_only_local_brings_torch() -> None:
    # ./run test installs torch itself, at the version of constraints.txt: through an extra pip
    # would be free to take the newest, with gigabytes of CUDA libraries.
    bringing = {extra for extra in EXTRAS if "torch" in distributions(EXTRAS[extra])}
    assert bringing == {"local", "all"}
    assert re.search(r"^torch==2\.13\.0$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_every_imported_library_is_declared() -> None:
    declared = distributions(PROJECT["dependencies"]).union(
        *(distributions(requirements) for requirements in EXTRAS.values())
    )
    imported = {
        found.library
        for found in imports_of(ROOT / "python" / "blatam_kv")
        if found.target_room is None and found.library not in sys.stdlib_module_names
    }
    names = {**INSTALLED_AS, **BROUGHT_BY}
    assert {names.get(library, library) for library in imported} <= declared


# ---- a machine with the core alone --------------------------------------------------------------

# Stands for an environment where only the core was installed: nothing else can be found, neither by
# the program nor by the processes it starts.
CORE_ONLY = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def core_only(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments`` in ``folder`` as if no extra were installed."""
    extras = set().union(*(distributions(requirements) for requirements in EXTRAS.values()))
    imported_as = {project: library for library, project in INSTALLED_AS.items()}
    absent = {imported_as.get(project, project) for project in extras} | {"anyio", "h11", "click"}
    (folder / "sitecustomize.py").write_text(CORE_ONLY.format(absent=absent))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_cache_needs_no_extra(tmp_path: Path) -> None:
    program = (
        "import blatam_kv\n"
        "cache = blatam_kv.Cache(capacity=2)\n"
        "cache.put('key', 'value')\n"
        "print(cache.get('key'))\n"
    )
    done = core_only(tmp_path, "-c", program)
    assert done.stdout == "value\n", done.stderr


def test_the_embedded_model_needs_no_extra(tmp_path: Path) -> None:
    program = (
        "from blatam_kv import truthgpt\n"
        "answer = truthgpt.load().generate(\n"
        "    [truthgpt.Message('user', 'a plan')], sampling=truthgpt.Sampling(max_tokens=2)\n"
        ")\n"
        "print(answer.usage.completion_tokens)\n"
    )
    done = core_only(tmp_path, "-c", program)
    assert done.stdout == "2\n", done.stderr


def test_a_simulation_needs_no_extra(tmp_path: Path) -> None:
    program = "import blatam_kv\nprint(blatam_kv.simulate([1, 2, 1], 'belady', 1).hit_ratio)\n"
    done = core_only(tmp_path, "-c", program)
    assert done.stdout == f"{1 / 3}\n", done.stderr


# Named before anything is done: the trace is not even looked for.
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["serve", "--port", "0"], "server"),
        (["demo"], "server"),
        (["simulate", "no-such.u32", "--plot", "a.png"], "plots"),
    ],
)
def test_a_missing_extra_is_an_error_that_names_it(
    tmp_path: Path, arguments: list[str], extra: str
) -> None:
    done = core_only(tmp_path, "-m", "blatam_kv", *arguments)
    assert done.returncode == 1, done.stderr
    assert f"pip install 'blatam-kv[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
