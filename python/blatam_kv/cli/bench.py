"""``bench``: run the scripts in ``bench/`` of the source checkout, one after the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import blatam_kv
from blatam_kv.config import did_you_mean
from blatam_kv.errors import Error, InvalidRequest


class NoCheckout(Error, FileNotFoundError):
    """The scripts are part of the source, not of the installed package."""


def bench(names: Sequence[str]) -> int:
    """Run the named scripts, or all; 0 if every one succeeds, else 1."""
    scripts = {path.stem: path for path in sorted(folder().glob("[!_]*.py"))}
    for name in names:
        if name not in scripts:
            hint = did_you_mean(name, scripts) or f"; there are: {', '.join(scripts)}"
            raise InvalidRequest(f"no table is called {name!r}{hint}")
    failed = []
    for name in names or scripts:
        print(f"\n==== bench/{name}.py", flush=True)
        if subprocess.run([sys.executable, str(scripts[name])], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"blatam-kv: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def folder() -> Path:
    """The ``bench/`` beside this package's source, or in the current directory."""
    package = Path(blatam_kv.__file__).resolve().parent
    for root in (package.parents[1], Path.cwd()):
        if (root / "pyproject.toml").is_file() and any((root / "bench").glob("*.py")):
            return root / "bench"
    raise NoCheckout(
        "the speed tables are scripts of the source checkout (bench/*.py); run this inside one"
    )
