"""What is built is what was meant: symbols, start-up cost, versions, wheel and sdist, the command."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest

import blatam_kv
from blatam_kv import _core

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# ---- one exported symbol per instruction set ----------------------------------------------------

ISA_FILE = re.compile(r"_(sse42|avx2|avx512)\.cc$")
ISA_FLAG = re.compile(r"^-m(sse[34]|avx|fma|bmi|f16c|pclmul|sha|arch=)")


@dataclass(frozen=True, slots=True)
class Compilation:
    """How this machine compiled one source of the extension."""

    source: Path
    command: tuple[str, ...]  # without the source, the output and the dependency file
    folder: Path  # where it ran

    def exported_symbols(self, object_file: Path, *flags: str) -> list[str]:
        """Compile again, away from the build, and name what the linker could choose from."""
        call = [*self.command, *flags, "-o", str(object_file), "-c", str(self.source)]
        subprocess.run(call, check=True, capture_output=True, cwd=self.folder)
        listing = subprocess.run(
            ["nm", "--extern-only", "--defined-only", "--format=posix", object_file],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return [line.split()[0] for line in listing.splitlines()]


@pytest.fixture(scope="module")
def compilations() -> list[Compilation]:
    builds = sorted(
        (ROOT / "build").glob("cp*/compile_commands.json"), key=lambda path: path.stat().st_mtime
    )
    assert builds, "no editable build here: start the tests with ./run test"
    return [
        Compilation(
            Path(entry["file"]),
            tuple(without_files(shlex.split(entry["command"]))),
            Path(entry["directory"]),
        )
        for entry in json.loads(builds[-1].read_text())
    ]


def without_files(command: Sequence[str]) -> Iterator[str]:
    words = iter(command)
    for word in words:
        if word in {"-o", "-c", "-MF", "-MT"}:
            next(words)
        elif word != "-MD":
            yield word


def test_only_isa_files_are_compiled_with_isa_flags(compilations: list[Compilation]) -> None:
    flagged = {
        compilation.source.relative_to(ROOT).as_posix()
        for compilation in compilations
        if any(ISA_FLAG.match(word) for word in compilation.command)
    }
    named = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "csrc").rglob("*.cc")
        if ISA_FILE.search(path.name)
    }
    assert named
    assert flagged == named


# -O0 emits every inline function that is used: a stray std:: call shows up there first.
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_each_isa_object_exports_one_symbol(
    compilations: list[Compilation], tmp_path: Path, level: str
) -> None:
    for compilation in compilations:
        if ISA_FILE.search(compilation.source.name):
            symbols = compilation.exported_symbols(tmp_path / "object.o", level)
            assert len(symbols) == 1, f"{compilation.source.name} exports {symbols}"


def test_a_second_symbol_would_be_seen(compilations: list[Compilation], tmp_path: Path) -> None:
    source = tmp_path / "stray_avx2.cc"
    source.write_text("inline int stray() { return 1; }\nint table() { return stray(); }\n")
    stray = replace(compilations[0], source=source)
    assert len(stray.exported_symbols(tmp_path / "object.o", "-O0")) == 2


# ---- what an import costs -----------------------------------------------------------------------


def cpu_seconds(program: str) -> float:
    """User and system time of a fresh interpreter that runs ``program``."""
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def test_import_costs_less_than_five_starts_of_the_interpreter() -> None:
    # The one assertion on time in this suite; test_layers.py asserts its cause, the modules loaded.
    # By the machine's own measure: 50 ms where the interpreter alone takes 10. The best of several
    # alternating runs, in CPU time, says the same on a busy machine.
    bare, loaded = [], []
    for _ in range(9):
        bare.append(cpu_seconds("pass"))
        loaded.append(cpu_seconds("import blatam_kv"))
    assert min(loaded) - min(bare) < 5 * min(bare)


# ---- one version --------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    assert blatam_kv.__version__ == PROJECT["version"]
    assert _core.__version__ == PROJECT["version"]
    assert version("blatam-kv") == PROJECT["version"]


# ---- wheel and sdist ----------------------------------------------------------------------------

NOT_SOURCES = (".git", ".venv", "build", "dist", "demo-output", ".state", ".hypothesis", ".*_cache")


@dataclass(frozen=True, slots=True)
class Archives:
    """File names: in a copy of this tree, in its sdist, and in the wheel built from that sdist."""

    tree: frozenset[str]
    sdist: frozenset[str]
    wheel: frozenset[str]


def offline(call: Sequence[str | Path], folder: Path) -> None:
    """Run ``call`` in ``folder`` with pip cut off from every index."""
    environment = {
        **{key: text for key, text in os.environ.items() if not key.startswith("PIP_")},
        "PIP_NO_INDEX": "1",
        "SKBUILD_CMAKE_DEFINE": "BLATAM_CUDA=OFF",  # built in its own room, once
        "PIP_CONFIG_FILE": os.devnull,
    }
    done = subprocess.run(
        call, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def unpack(sdist: Path, folder: Path) -> list[str]:
    """Lay the files of an sdist out under ``folder``, without its top directory; their names."""
    names = []
    with tarfile.open(sdist) as tar:
        for member in tar:
            if content := tar.extractfile(member):
                names.append(member.name.partition("/")[2])
                target = folder / names[-1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    return names


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    folder = tmp_path_factory.mktemp("archives")
    copy = folder / "a copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_SOURCES, "__pycache__"))
    tree = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    program = (
        "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    )
    offline([sys.executable, "-c", program, folder], copy)
    (sdist,) = folder.glob("blatam_kv-*.tar.gz")
    sources = unpack(sdist, folder / "unpacked")
    flags = ["--no-build-isolation", "--no-deps", "--wheel-dir", str(folder)]
    offline([sys.executable, "-m", "pip", "wheel", *flags, "."], folder / "unpacked")
    (wheel,) = folder.glob("blatam_kv-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return Archives(frozenset(tree), frozenset(sources), frozenset(packed.namelist()))


def test_the_wheel_built_offline_holds_the_package_and_nothing_else(archives: Archives) -> None:
    info = f"blatam_kv-{PROJECT['version']}.dist-info/"
    held = {name for name in archives.wheel if not name.startswith(info)}
    compiled = [name for name in held if name.endswith(".so")]
    assert len(compiled) == 1
    assert compiled[0].startswith("blatam_kv/_core.")
    assert {"blatam_kv/py.typed", "blatam_kv/_core.pyi"} <= held
    assert any(re.match(r"blatam_kv/truthgpt/.*\.safetensors$", name) for name in held)
    package = {name.removeprefix("python/") for name in archives.tree if name.startswith("python/")}
    assert held - {compiled[0]} == package


def test_the_sdist_holds_the_whole_tree(archives: Archives) -> None:
    assert archives.sdist - {"PKG-INFO"} == archives.tree


# ---- the build with and without CUDA ------------------------------------------------------------


def configured(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What CMake says of this tree where there is no nvcc."""
    return subprocess.run(
        ["cmake", "-S", ROOT, "-B", folder, *options],
        env={**os.environ, "CUDACXX": str(folder / "nvcc")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_nvcc_cuda_is_off_and_the_build_says_so(tmp_path: Path) -> None:
    done = configured(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "-- CUDA: off, because no working nvcc was found" in done.stdout
    assert "cuda-build" in done.stdout


def test_cuda_that_is_asked_for_and_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    done = configured(tmp_path, "-DBLATAM_CUDA=ON")
    assert done.returncode != 0
    assert "no working nvcc was found" in done.stderr
    assert "CUDACXX" in done.stderr


def test_cuda_can_be_left_out(tmp_path: Path) -> None:
    done = configured(tmp_path, "-DBLATAM_CUDA=OFF")
    assert done.returncode == 0, done.stderr
    assert "-- CUDA: off, as asked" in done.stdout


# ---- the command --------------------------------------------------------------------------------


def call_run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "run", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_run_without_a_job_says_which_there_are(tmp_path: Path) -> None:
    done = call_run(folder=tmp_path)
    assert done.returncode == 2
    assert all(job in done.stderr for job in ("demo", "serve", "test", "bench", "lint"))


def test_run_with_an_unknown_job_names_it(tmp_path: Path) -> None:
    done = call_run("tset", folder=tmp_path)
    assert done.returncode == 2
    assert "'tset'" in done.stderr


def test_run_with_help_succeeds(tmp_path: Path) -> None:
    done = call_run("--help", folder=tmp_path)
    assert done.returncode == 0
    assert "usage: ./run" in done.stdout


# ---- the rule about skips -----------------------------------------------------------------------

SESSION = """
import pytest

def test_runs(): ...

@pytest.mark.gpu
def test_marked(): pytest.skip("no device")
"""
UNMARKED = "\n@pytest.mark.skip(reason='lazy')\ndef test_lazy(): ...\n"
WHOLE_MODULE = "import pytest\npytest.importorskip('no_such_library')\n"


@pytest.mark.parametrize(
    ("files", "ci", "code"),
    [
        ({"test_a.py": SESSION}, "true", 0),
        ({"test_a.py": SESSION + UNMARKED}, "true", 1),
        ({"test_a.py": SESSION + UNMARKED}, "", 0),
        ({"test_a.py": SESSION, "test_b.py": WHOLE_MODULE}, "true", 1),
    ],
)
def test_in_ci_an_unmarked_skip_is_a_failure(
    tmp_path: Path, files: Mapping[str, str], ci: str, code: int
) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu\n  free_threaded\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert "no device" in done.stdout
