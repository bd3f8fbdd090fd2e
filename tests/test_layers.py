"""Imports point one way, heavy libraries are imported where they are used, and the C++ rooms are islands.

The rules are data at the top of this file; three small readers turn a tree of sources into a list
of complaints. Each reader is also fed trees that break the rules, because a check that has never
been seen to fail proves nothing.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "blatam_kv"

# ---- the rules ----------------------------------------------------------------------------------

# From the ground up. A room may import rooms below it and, as long as no circle arises, its
# neighbours on the same floor. "" is the package's own __init__, which re-exports the engine.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"signature"}),
    frozenset({"_core", "_cuda"}),
    frozenset(
        {
            *(
                "client",
                "codecs",
                "config",
                "cuda",
                "curves",
                "devices",
                "flights",
                "metrics",
                "pages",
                "parameters",
            ),
            *("policy", "probe", "record", "tensors", "traces", "tracing"),
        }
    ),
    frozenset({"tiers"}),
    frozenset({"cache", "cached", "blocks", "shelf", "simulation"}),
    frozenset({"", "integrations"}),
    frozenset({"truthgpt", "backup", "documents", "exchange", "migrate"}),
    frozenset({"bul"}),
    frozenset({"server"}),
    frozenset({"gateway"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

# The adapters are imported by one module only, inside a function.
ADAPTERS, ADAPTERS_USER = "integrations", "truthgpt.local"

# Never at module level, whoever imports them: they cost seconds or may be missing.
HEAVY = frozenset({
    "torch", "transformers", "tokenizers", "redis", "sqlalchemy", "alembic", "psycopg", "pynvml",
    "typst", "docx", "openpyxl", "zstandard", "cryptography", "opentelemetry", "matplotlib", "pandas", "scipy",
    "triton", "vllm", "sglang", "lmcache",
})  # fmt: skip

# A room behind a door: its modules may name these at their top, and nobody outside may import them
# at the top; the door, its __init__, keeps the common rule.
BEHIND_DOORS: Mapping[str, frozenset[str]] = {
    "bul.storage": frozenset({"sqlalchemy", "alembic", "psycopg"}),
    "tracing": frozenset({"opentelemetry"}),
}

# An adapter subclasses what it adapts, so it names that at module level. Who imports an adapter does
# so inside a function (above), so nobody else pays.
ADAPTED: Mapping[str, frozenset[str]] = {"integrations": frozenset({"torch", "transformers"})}

# The libraries of the service, and the rooms that may name them.
SERVICE = frozenset({"bul", "server", "gateway", "cli"})
HOUSED: Mapping[str, frozenset[str]] = {
    "starlette": SERVICE,
    "fastapi": SERVICE,
    "uvicorn": SERVICE,
    "uvloop": SERVICE,
    "httptools": frozenset({"server", "gateway"}),
    "websockets": frozenset({"gateway"}),
    "pydantic": SERVICE,
    "orjson": SERVICE | {"truthgpt"},
    "httpx": SERVICE | {"truthgpt"},
    "prometheus_client": SERVICE | {"metrics"},
    "markdown_it": frozenset({"documents"}),
    "nh3": frozenset({"documents"}),
    "typst": frozenset({"documents"}),
    "docx": frozenset({"documents"}),
    "yaml": SERVICE | {"config", "migrate"},
}

# What `import blatam_kv` may not load, besides all of the above: numpy alone costs more than the
# whole package, and the others follow from a careless convenience.
ABSENT_AFTER_IMPORT = HEAVY | frozenset(HOUSED) | {"numpy", "asyncio", "safetensors", "tqdm"}

# csrc: which rooms a room may include from, and who may know which foreign headers.
CPP_MAY_INCLUDE: Mapping[str, frozenset[str]] = {
    "core": frozenset({"core"}),
    "kernels": frozenset({"kernels"}),
    "cuda": frozenset({"cuda"}),
    "bindings": frozenset({"core", "kernels", "cuda", "bindings"}),
}
# Header-only arithmetic that host and device both compile, by name.
CPP_SHARED_ARITHMETIC: frozenset[str] = frozenset({
    "core/blake2b_rounds.h",
    *(
        f"kernels/{name}.h"
        for name in ("arithmetic", "affine", "exchange", "lloyd_max", "packing", "rotation")
    ),
})  # fmt: skip
CPP_FOREIGN: Mapping[str, frozenset[str]] = {
    r"(pybind11/|Python\.h|numpy/|nanobind/)": frozenset({"bindings"}),
    r"(cuda[._]|cub/|nv|cooperative_groups)": frozenset({"cuda"}),
    r"(torch|ATen|c10)/": frozenset(),
    r"(gtest|gmock|benchmark)/": frozenset(),
}


# ---- reading Python -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: where, from which module of the package, and when it runs."""

    place: str
    module: str  # the importer, dotted, without the package's name: "bul.pipeline", "" for __init__
    target: str  # absolute: "blatam_kv.errors", "numpy.linalg"
    at_import: bool  # neither inside a function nor only for the type checker

    @property
    def room(self) -> str:
        return self.module.partition(".")[0]

    @property
    def target_room(self) -> str | None:
        """The room inside the package, or None for a foreign module."""
        package, _, rest = self.target.partition(".")
        return rest.partition(".")[0] if package == PACKAGE else None

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]


def imports_of(tree: Path) -> list[Import]:
    """Every import statement under ``tree``, the folder of the package."""
    found = []
    for path in sorted(tree.rglob("*.py")):
        parts = path.relative_to(tree).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = parts[:-1] if is_package else parts
        home = (PACKAGE, *(module if is_package else module[:-1]))
        place = path.relative_to(tree).as_posix()
        for node, at_import in _import_nodes(ast.parse(path.read_text(), place), at_import=True):
            for target in _targets(node, home, tree):
                found.append(Import(f"{place}:{node.lineno}", ".".join(module), target, at_import))
    return found


def _import_nodes(
    node: ast.AST, *, at_import: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_import
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _import_nodes(ast.Module(child.body, []), at_import=False)
            yield from _import_nodes(ast.Module(child.orelse, []), at_import=at_import)
        else:
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _import_nodes(child, at_import=at_import and not deferred)


def _targets(node: ast.Import | ast.ImportFrom, home: tuple[str, ...], tree: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    above = home[: len(home) - node.level + 1] if node.level else ()
    base = ".".join((*above, *(node.module.split(".") if node.module else ())))
    for alias in node.names:
        # `from . import record` names a module, `from .record import Record` a thing in it.
        full = f"{base}.{alias.name}"
        inside = tree.joinpath(*full.split(".")[1:]) if base.split(".")[0] == PACKAGE else None
        is_module = inside is not None and (
            inside.with_suffix(".py").exists()
            or inside.with_suffix(".pyi").exists()
            or inside.is_dir()
        )
        yield full if is_module else base


def layer_complaints(imports: list[Import]) -> list[str]:
    """Upward arrows, circles between rooms, rooms without a floor, adapters used elsewhere."""
    complaints = []
    arrows: dict[str, set[str]] = {}
    for found in imports:
        room, target = found.room, found.target_room
        if room not in FLOOR:
            complaints.append(f"{found.place}: room {room!r} has no floor: add it to FLOORS")
            continue
        if target is None or target == room:
            continue
        if target not in FLOOR:
            complaints.append(f"{found.place}: imports {found.target}, which has no floor")
            continue
        if target == ADAPTERS:
            if found.module != ADAPTERS_USER or found.at_import:
                complaints.append(
                    f"{found.place}: only {ADAPTERS_USER} imports {ADAPTERS}, inside a function"
                )
        elif FLOOR[target] > FLOOR[room]:
            complaints.append(
                f"{found.place}: {room or PACKAGE} imports {target or PACKAGE}, a floor above"
            )
        arrows.setdefault(room, set()).add(target)
    return complaints + [f"circle: {' -> '.join(circle)}" for circle in _circles(arrows)]


def _circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    circles = []
    done: set[str] = set()

    def walk(room: str, trail: list[str]) -> None:
        if room in trail:
            circles.append([*trail[trail.index(room) :], room])
        elif room not in done:
            for target in sorted(arrows.get(room, ())):
                walk(target, [*trail, room])
            done.add(room)

    for room in sorted(arrows):
        walk(room, [])
    return circles


def library_complaints(imports: list[Import]) -> list[str]:
    """Heavy libraries at module level, and the service's libraries outside the service."""
    complaints = []
    for found in imports:
        allowed = _allowed_behind_door(found.module) | ADAPTED.get(found.room, frozenset())
        if found.library in HEAVY - allowed and found.at_import:
            complaints.append(f"{found.place}: {found.library} at module level")
        for door in BEHIND_DOORS:
            behind = found.target.startswith(f"{PACKAGE}.{door}.")
            if behind and found.at_import and not found.module.startswith(f"{door}."):
                complaints.append(f"{found.place}: {found.target} at module level")
        rooms = HOUSED.get(found.library)
        if rooms is not None and found.room not in rooms:
            complaints.append(f"{found.place}: {found.library} in {found.room or PACKAGE}")
    return complaints


def _allowed_behind_door(module: str) -> frozenset[str]:
    for door, libraries in BEHIND_DOORS.items():
        if module.startswith(f"{door}."):
            return libraries
    return frozenset()


# ---- reading C++ --------------------------------------------------------------------------------

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def include_complaints(csrc: Path) -> list[str]:
    """Includes that cross from one island to another, or bring a foreign header ashore."""
    complaints = []
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in {".h", ".cc", ".cu", ".cuh", ".cpp", ".hpp", ".inc"}:
            continue
        place = path.relative_to(csrc).as_posix()
        room = place.partition("/")[0]
        if room not in CPP_MAY_INCLUDE:
            complaints.append(f"{place}: no room is called {room!r}")
            continue
        for _, name in _INCLUDE.findall(path.read_text()):
            for pattern, rooms in CPP_FOREIGN.items():
                if re.match(pattern, name) and room not in rooms:
                    complaints.append(f"{place}: {room} includes {name}")
            for base in (path.parent, csrc):
                target = (base / name).resolve()
                if target.is_relative_to(csrc.resolve()) and target.exists():
                    header = target.relative_to(csrc.resolve()).as_posix()
                    if (
                        header.partition("/")[0] not in CPP_MAY_INCLUDE[room]
                        and header not in CPP_SHARED_ARITHMETIC
                    ):
                        complaints.append(f"{place}: {room} includes {header}")
                    break
    return complaints


# ---- the tree as it is --------------------------------------------------------------------------


def test_imports_point_one_way() -> None:
    imports = imports_of(ROOT / "python" / PACKAGE)
    assert imports
    assert not layer_complaints(imports)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    assert not library_complaints(imports_of(ROOT / "python" / PACKAGE))


def test_core_kernels_and_cuda_are_islands() -> None:
    assert (ROOT / "csrc" / "core").is_dir()
    assert not include_complaints(ROOT / "csrc")


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"import sys, {PACKAGE}; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert PACKAGE in loaded
    assert not ABSENT_AFTER_IMPORT.intersection(loaded)


# ---- the checks, checked ------------------------------------------------------------------------


def plant(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GOOD = {
    "__init__.py": "from .cache import Cache\nfrom .errors import Error\n",
    "errors.py": "class Error(Exception): ...\n",
    "record.py": "import numpy\nfrom . import codecs\nfrom .errors import Error\n",
    "codecs.py": "from blatam_kv import _core\n",
    "_core.pyi": "",
    "cache.py": "from . import _core\nfrom .tiers.memory import Memory\n",
    "tiers/__init__.py": "",
    "tiers/memory.py": "from ..record import Record\nfrom .. import errors\n",
    "integrations/__init__.py": "",
    "integrations/transformers.py": "import torch, transformers\nfrom ..blocks import KVStore\n",
    "blocks.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
    "truthgpt/__init__.py": "",
    "truthgpt/local.py": "def f():\n    from ..integrations import transformers\n",
    "bul/__init__.py": "import pydantic\nfrom ..truthgpt.local import f\n",
    "bul/storage/__init__.py": "def f():\n    from .rows import g\n",
    "bul/storage/rows.py": "import sqlalchemy\nfrom .tables import t\n",
    "bul/storage/tables.py": "from sqlalchemy import Table\n",
    "bul/pipeline.py": "from .storage import f\n",
    "server/__init__.py": "import starlette\nfrom blatam_kv.bul import x\n",
    "cli.py": "import blatam_kv\nfrom . import server\n",
}


def test_a_tree_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    imports = imports_of(plant(tmp_path, GOOD))
    assert not layer_complaints(imports)
    assert not library_complaints(imports)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("errors.py", "from .record import Record", "errors imports record, a floor above"),
        ("errors.py", "from . import record", "errors imports record, a floor above"),
        ("record.py", "import blatam_kv.cache", "record imports cache, a floor above"),
        ("tiers/disk.py", "from blatam_kv import blocks", "tiers imports blocks, a floor above"),
        ("tiers/disk.py", "from ..bul import x", "tiers imports bul, a floor above"),
        ("cache.py", "def f():\n    from .bul import x", "cache imports bul, a floor above"),
        ("cache.py", "try:\n    from .server import x\nexcept ImportError: ...", "a floor above"),
        ("bul/pipeline.py", "from ..server import x", "bul imports server, a floor above"),
        ("server/app.py", "from ..cli import main", "server imports cli, a floor above"),
        ("__init__.py", "from .truthgpt import local", "blatam_kv imports truthgpt"),
        ("codecs.py", "from .record import Record", "circle: (codecs|record) -> "),
        ("helpers.py", "import os", "room 'helpers' has no floor"),
        (
            "bul/pipeline.py",
            "from ..helpers import x",
            "imports blatam_kv.helpers, which has no floor",
        ),
        ("cache.py", "def f():\n    from .integrations import x", "only truthgpt.local imports"),
        ("truthgpt/local.py", "from ..integrations import x", "inside a function"),
        ("integrations/vllm.py", "from ..bul import x", "integrations imports bul"),
        ("tiers/disk.py", "from blatam_kv import Cache", "tiers imports blatam_kv, a floor above"),
    ],
)
def test_a_wrong_arrow_is_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    complaints = layer_complaints(imports_of(plant(tmp_path, {**GOOD, name: text})))
    assert any(re.search(complaint, line) for line in complaints), complaints


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("truthgpt/local.py", "import torch", "torch at module level"),
        ("truthgpt/local.py", "from torch.nn import Module", "torch at module level"),
        ("tiers/redis.py", "if True:\n    import redis.asyncio", "redis at module level"),
        ("bul/storage.py", "class A:\n    import sqlalchemy as s", "sqlalchemy at module level"),
        ("tiers/disk.py", "try:\n    import zstandard\nexcept ImportError: ...", "zstandard at"),
        ("bul/storage/__init__.py", "import sqlalchemy", "sqlalchemy at module level"),
        ("bul/storage/rows.py", "import torch", "torch at module level"),
        ("bul/a.py", "from blatam_kv.bul.storage import rows", "bul.storage.rows at module level"),
        ("truthgpt/mini.py", "def f():\n    import pydantic", "pydantic in truthgpt"),
        ("cache.py", "from prometheus_client import Counter", "prometheus_client in cache"),
        ("__init__.py", "import orjson", "orjson in blatam_kv"),
    ],
)
def test_a_library_out_of_place_is_named(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    complaints = library_complaints(imports_of(plant(tmp_path, {**GOOD, name: text})))
    assert any(complaint in line for line in complaints), complaints


GOOD_CPP = {
    "core/digest.h": "#pragma once\n#include <cstdint>\n",
    "core/digest.cc": '#include "core/digest.h"\n',
    "core/local.cc": '#include "digest.h"\n',
    "kernels/quantise.h": "#include <stdint.h>\n",
    "cuda/gather.cu": '#include <cuda_runtime.h>\n#include "cuda/gather.h"\n',
    "cuda/gather.h": "",
    "bindings/module.cc": '#include <pybind11/pybind11.h>\n#include "core/digest.h"\n',
}


def test_islands_that_keep_apart_pass(tmp_path: Path) -> None:
    assert not include_complaints(plant(tmp_path, GOOD_CPP))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("core/a.cc", '#include "kernels/quantise.h"', "core includes kernels/quantise.h"),
        ("core/a.cc", '#include "../kernels/quantise.h"', "core includes kernels/quantise.h"),
        ("core/a.cc", "  #  include <Python.h>", "core includes Python.h"),
        ("core/a.h", "#include <pybind11/pybind11.h>", "core includes pybind11/pybind11.h"),
        ("kernels/a.cc", '#include "core/digest.h"', "kernels includes core/digest.h"),
        ("kernels/a.cc", "#include <cuda_bf16.h>", "kernels includes cuda_bf16.h"),
        ("cuda/a.cu", '#include "core/digest.h"', "cuda includes core/digest.h"),
        ("cuda/a.cu", "#include <torch/extension.h>", "cuda includes torch/extension.h"),
        ("bindings/a.cc", "#include <gtest/gtest.h>", "bindings includes gtest/gtest.h"),
        ("common/a.h", "", "no room is called 'common'"),
    ],
)
def test_a_wrong_include_is_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    complaints = include_complaints(plant(tmp_path, {**GOOD_CPP, name: text}))
    assert any(complaint in line for line in complaints), complaints
