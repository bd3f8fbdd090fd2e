"""Reads what ptxas said of every kernel: ``python tests/cuda_report.py LOG``.

Exits with 1 if a kernel spills registers to memory, or if the report names none: a build that said
nothing has proved nothing.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

_COMPILED = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_SPILLED = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel for one architecture."""

    name: str
    architecture: str
    registers: int
    spilled_bytes: int


def kernels(report: str) -> list[Kernel]:
    """Every kernel of a report; functions that are not kernels have no line of registers."""
    found = []
    name, architecture, spilled = "", "", 0
    for line in report.splitlines():
        if compiled := _COMPILED.search(line):
            name, architecture, spilled = compiled[1], compiled[2], 0
        elif spill := _SPILLED.search(line):
            spilled = int(spill[1]) + int(spill[2])
        elif (used := _USED.search(line)) and name:
            found.append(Kernel(name, architecture, int(used[1]), spilled))
            name = ""
    return found


def main(path: Path) -> int:
    found = kernels(path.read_text())
    for kernel in found:
        if kernel.spilled_bytes:
            print(f"{kernel.name} for {kernel.architecture} spills {kernel.spilled_bytes} bytes")
    architectures = sorted({kernel.architecture for kernel in found})
    most = max((kernel.registers for kernel in found), default=0)
    print(f"{len(found)} kernels for {' '.join(architectures)}, at most {most} registers")
    return 1 if not found or any(kernel.spilled_bytes for kernel in found) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
