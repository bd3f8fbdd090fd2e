"""The process that reads what is not trusted: ``python -m blatam_kv.migrate.warden FILE``.

Writes, for each entry, a line of JSON and the bytes it announces. See ``guard``.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blatam_kv.migrate.guard import ALLOWED, MAX_DEPTH, MAX_ENTRY_BYTES, OPCODES

_MEMORY_BYTES = 16 << 30
_CPU_SECONDS = 600


class Refused(Exception):
    """The file is not plain data."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # whatever a pickle may hold
        if (module, name) not in ALLOWED:
            raise Refused(f"it names {module}.{name}, which is not plain data")
        return super().find_class(module, name)

    def persistent_load(self, pid: object) -> Any:
        raise Refused("it refers to objects outside")


def check(data: bytes) -> None:
    """Look at every instruction, and run none. Raises Refused."""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in OPCODES:
                raise Refused(f"it has the instruction {opcode.name}")
            if opcode.name == "GLOBAL" and tuple(str(argument).split(" ", 1)) not in ALLOWED:
                raise Refused(f"it names {argument}, which is not plain data")
    except (ValueError, IndexError, TypeError) as error:
        raise Refused(f"it is no whole pickle: {error}") from error


def unpickled(data: bytes) -> Any:
    """The plain data of a pickle. Raises Refused."""
    check(data)
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Refused:
        raise
    except Exception as error:  # a wrong pickle may raise anything
        raise Refused(f"it cannot be read: {type(error).__name__}: {error}") from error


def entries_of(document: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values: of a dict its items, of anything else itself under the file's name."""
    if isinstance(document, Mapping):
        for name in ("cache", "entries", "data"):  # as the original's states wrap them
            inner = document.get(name)
            if isinstance(inner, Mapping) and inner:
                yield from ((str(key), value) for key, value in inner.items())
                return
        yield from ((str(key), value) for key, value in document.items())
    else:
        yield path.stem, document


def formed(value: Any) -> tuple[str, bytes]:
    """The value as JSON, or with its arrays as safetensors. Raises Refused."""
    arrays: dict[str, Any] = {}
    plain = _plain(value, arrays, "value", 0)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=True)
    if not arrays:
        return "json", text.encode("utf-8", "surrogatepass")
    from safetensors.numpy import save

    return "safetensors", save(arrays, metadata={"value": text})


def _plain(value: Any, arrays: dict[str, Any], name: str, depth: int) -> Any:
    """JSON for a value; its arrays and tensors go into ``arrays``, named by where they were."""
    if depth > MAX_DEPTH:
        raise Refused(f"it is nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, arrays, f"{name}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, arrays, f"{name}.{at}", depth + 1) for at, v in enumerate(value)]
    array = _array(value)
    if array is not None:
        arrays[name] = array
        if sum(each.nbytes for each in arrays.values()) > MAX_ENTRY_BYTES:
            raise Refused(f"an entry has more than {MAX_ENTRY_BYTES} bytes")
        return {"array": name}
    return str(value)  # dates and the like


def _array(value: Any) -> Any:
    import numpy as np

    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        import torch

        tensor = value.detach().cpu().contiguous()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.float()  # exact; numpy has no bfloat16
        value = tensor.numpy()
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype.kind not in "biuf":
        raise Refused(f"it holds an array of {value.dtype}")
    return np.ascontiguousarray(value)


def loaded(path: Path) -> Any:
    """A file's document."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if path.suffix.lower() in (".pkl", ".pickle") and not zipped:
        return unpickled(path.read_bytes())
    try:
        import torch
    except ImportError:
        raise Refused(
            ".pt files are read by torch; install it with: pip install 'blatam-kv[local]'"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch says so in many ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(f"torch does not take it for plain data: {reason[:200]}") from error


def main() -> int:
    path, out = Path(sys.argv[1]), sys.stdout.buffer
    for kind, limit in (
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # pipes are no files
    ):
        resource.setrlimit(kind, (limit, limit))
    try:
        for key, value in entries_of(loaded(path), path):
            form, data = formed(value)
            head = {"key": key, "form": form, "bytes": len(data)}
            out.write(json.dumps(head).encode() + b"\n" + data)
    except (Refused, MemoryError, RecursionError, OSError) as error:
        print(str(error) or type(error).__name__, file=sys.stderr)
        return 1
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
