"""Reading the original's pickles and .pt files without trusting them.

A pickle is a program. So it is read by a process of its own, which may neither open files nor use more
than so much memory and time, after a look at its instructions: only those that build plain data are
let through, and of names only a few constructors. A .pt file is read by torch with
``weights_only=True``, in the same process. What comes back is JSON and bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from blatam_kv.errors import Unsupported

MAX_FILE_BYTES = 8 << 30
MAX_ENTRY_BYTES = 1 << 30
MAX_DEPTH = 50
_SECONDS = 600

# What a pickle may name: constructors that only hold what they are given.
ALLOWED = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("builtins", "dict"),
    ("builtins", "int"),
    ("builtins", "list"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("datetime", "date"),
    ("datetime", "timezone"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}
# Instructions that plain data needs. Not among them: INST, OBJ, EXT*, PERSID, BINPERSID, NEXT_BUFFER.
OPCODES = frozenset(
    """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG
    LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST APPEND APPENDS LIST
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS
    FROZENSET GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
    NEWOBJ NEWOBJ_EX""".split()
)


@dataclass(frozen=True, slots=True)
class Value:
    """One entry of the original. key: as text. form: "json" or "safetensors". data: in that form."""

    key: str
    form: str
    data: bytes


def read_untrusted(path: Path) -> Iterator[Value]:
    """The entries of a pickle or .pt file. Raises Unsupported for one that is not plain data, is
    damaged or asks for too much; nothing that it holds has run then."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Unsupported(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    command = [sys.executable, "-m", "blatam_kv.migrate.warden", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            yield from _values(child.stdout, path)
            complaint = child.stderr.read(4000).decode(errors="replace").strip()
            if child.wait(_SECONDS) != 0:
                last = complaint.splitlines()[-1] if complaint else f"status {child.returncode}"
                raise Unsupported(f"{path} was not read: {last}")
        finally:
            child.kill()


def _values(pipe: IO[bytes], path: Path) -> Iterator[Value]:
    while line := pipe.readline(1 << 20):
        try:
            head: dict[str, Any] = json.loads(line)
            key, form, size = str(head["key"]), str(head["form"]), int(head["bytes"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unsupported(f"{path} was not read: its reader broke off") from error
        if not 0 <= size <= MAX_ENTRY_BYTES or form not in ("json", "safetensors"):
            raise Unsupported(
                f"{path} holds an entry of {size} bytes; {MAX_ENTRY_BYTES} is the most"
            )
        data = pipe.read(size)
        if len(data) != size:
            raise Unsupported(f"{path} was not read: its reader broke off")
        yield Value(key, form, data)
