"""The same damage done to stores of several projects: who serves a wrong value?

Every case damages a copy of a small store on disk and reads all of its keys in a process of its own. What
comes back is compared with what was last put: a *wrong* value is served as a hit, as is an *old* one of
the same key; a store may *crash* its reader, be impossible to open (*closed*), raise an *error* to whoever
asked, or answer with a *miss*; where every value is still right the damage was *harmless*. A case counts
under the first of these that happened.

flip: one bit, half of them anywhere, half in the first or last 256 bytes of a file. cut: a file shortened.
swap: two files of one kind exchange their contents. stale: what is not values (manifest, index, database)
as it was before the last puts. kill: SIGKILL while values are written; any value that was ever put under its
key is right then.

Projects that are installed are run with their own code; those that are not are left out and named. The big
three pull in a CUDA build of torch unless they are installed beside a torch of your choice:

  pip install diskcache joblib zarr safetensors torch==2.13.0
  pip install --no-deps lmcache==0.5.6 sglang==0.5.23 vllm==0.33.0   # and what an import then misses
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import pickle
import random
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

OUTCOMES = ("wrong", "old", "crash", "closed", "error", "miss", "harmless")
CASES = ("flip", "cut", "swap", "stale", "kill")
KEYS = 12
EDGE = 256
# More puts than a writer gets done before it is killed.
GENERATIONS = 3000
READER_SECONDS = 30


class Handle(Protocol):
    """A store that is open."""

    def put(self, key: int, value: bytes) -> None: ...
    def get(self, key: int) -> bytes | None: ...
    def close(self) -> None: ...


class Peer(ABC):
    """A kind of store. package: what has to be installed. size: bytes of a value. overwrites: whether a
    put replaces an older value; where names are digests of contents, it does not. metadata: names of the
    files that hold no values. survives: whether a new process finds what an earlier one wrote."""

    name = ""
    package = ""
    size = 40 << 10
    overwrites = True
    metadata: tuple[str, ...] = ()
    survives = True

    @abstractmethod
    def open(self, folder: Path) -> Handle:
        """The store in a folder that is there, a new one if it is empty."""


def value_of(key: int, generation: int, size: int) -> bytes:
    """What is put: random to look at, and known by key and generation."""
    return hashlib.shake_128(f"{key} {generation}".encode()).digest(size)


# ---- the stores ---------------------------------------------------------------------------------


class Blatam(Peer):
    name, package = "blatam_kv DiskTier", "blatam-kv"
    metadata = ("metadata.json", "index")

    def open(self, folder: Path) -> Handle:
        from blatam_kv.record import Kind, Record
        from blatam_kv.tiers import DiskTier

        tier = DiskTier(folder, disk_bytes=4 << 20)

        class Open:
            def put(self, key: int, value: bytes) -> None:
                tier.put_many([Record(key.to_bytes(32, "little"), Kind.RESPONSE, value)])

            def get(self, key: int) -> bytes | None:
                record = tier.get_many([key.to_bytes(32, "little")])[0]
                return None if record is None else bytes(record.payload)

            def close(self) -> None:
                tier.close()

        return Open()


class DiskCache(Peer):
    """Values of 32 KiB and more in files of their own, which is the library's choice."""

    name, package = "diskcache, 40 KiB", "diskcache"
    metadata: tuple[str, ...] = ("cache.db", "cache.db-wal", "cache.db-shm")

    def open(self, folder: Path) -> Handle:
        cache = importlib.import_module("diskcache").Cache(str(folder))
        return _Mapping(cache, close=cache.close)


class SmallDiskCache(DiskCache):
    """Smaller values in SQLite."""

    name, size = "diskcache, 4 KiB", 4 << 10
    metadata = ()


class VllmFiles(Peer):
    """The functions that its file system tier stores and loads blocks with."""

    name, package, overwrites = "vLLM, fs tier", "vllm", False

    def open(self, folder: Path) -> Handle:
        io = importlib.import_module("vllm.v1.kv_offload.tiering.fs.io")
        size = self.size

        class Open(_Plain):
            def put(self, key: int, value: bytes) -> None:
                view = memoryview(bytearray(value))
                io.batch_store_block([self.path(key)], view, [0], size, False)

            def load(self, path: str) -> bytes:
                room = bytearray(size)
                io.batch_load_block([path], memoryview(room), [0], size, False)
                return bytes(room)

        return Open(folder, ".bin")


class SglangFiles(Peer):
    name, package, overwrites = "SGLang HiCacheFile", "sglang", False

    def open(self, folder: Path) -> Handle:
        torch = importlib.import_module("torch")
        module = importlib.import_module("sglang.srt.mem_cache.hicache_storage")
        config = module.HiCacheStorageConfig(0, 1, 0, 1, 0, 1, False, False, True, "model")
        store, size = module.HiCacheFile(config, str(folder)), self.size

        class Open:
            def put(self, key: int, value: bytes) -> None:
                store.set(f"{key:064x}", torch.frombuffer(bytearray(value), dtype=torch.uint8))

            def get(self, key: int) -> bytes | None:
                room = torch.empty(size, dtype=torch.uint8)
                found = store.get(f"{key:064x}", room)
                return None if found is None else bytes(found.numpy())

            def close(self) -> None: ...

        return Open()


class LmcacheFiles(Peer):
    name, package, overwrites = "LMCache FSL2Adapter", "lmcache", False

    def open(self, folder: Path) -> Handle:
        module = importlib.import_module("lmcache.v1.distributed.l2_adapters.fs_l2_adapter")
        adapter = module.FSL2Adapter(module.FSL2AdapterConfig(str(folder)))
        size = self.size

        def named(key: int) -> Any:
            return module.ObjectKey(key.to_bytes(32, "big"), "model", 0)

        class Open:
            def put(self, key: int, value: bytes) -> None:
                source = SimpleNamespace(byte_array=memoryview(bytearray(value)))
                task = adapter.submit_store_task([named(key)], [source])
                while task not in adapter.pop_completed_store_tasks():
                    select.select([], [], [], 0.001)

            def get(self, key: int) -> bytes | None:
                room = SimpleNamespace(byte_array=memoryview(bytearray(size)))
                task = adapter.submit_load_task([named(key)], [room])
                while (found := adapter.query_load_result(task)) is None:
                    select.select([], [], [], 0.001)
                return bytes(room.byte_array) if found.test(0) else None

            def close(self) -> None:
                adapter.close()

        return Open()


class LmcacheLocal(Peer):
    """Its get and its file calls. What it has it knows only while its process lives, so it is told here
    what the one that wrote had known."""

    name, package, survives = "LMCache LocalDiskBackend", "lmcache", False

    def open(self, folder: Path) -> Handle:
        torch = importlib.import_module("torch")
        utils = importlib.import_module("lmcache.utils")
        policies = importlib.import_module("lmcache.v1.storage_backend.cache_policy")
        module = importlib.import_module("lmcache.v1.storage_backend.local_disk_backend")
        backend, size = object.__new__(module.LocalDiskBackend), self.size
        backend.path, backend.os_disk_bs, backend.use_odirect = str(folder), 4096, False
        backend.cache_policy = policies.get_cache_policy("LRU")
        backend.dict = backend.cache_policy.init_mutable_mapping()
        backend.disk_lock = importlib.import_module("threading").Lock()
        backend.local_cpu_backend = SimpleNamespace(
            allocate=lambda shape, dtype, fmt: SimpleNamespace(
                byte_array=memoryview(bytearray(size)), metadata=SimpleNamespace()
            )
        )

        def named(key: int) -> Any:
            return utils.CacheEngineKey("model", 1, 0, key, torch.uint8)

        def known(key: int) -> Any:
            path, shape = backend._key_to_path(named(key)), torch.Size([size])
            return utils.DiskCacheMetadata(path, size, shape, torch.uint8, None, None, 0)

        class Open:
            def put(self, key: int, value: bytes) -> None:
                backend.write_file(value, backend._key_to_path(named(key)))

            def get(self, key: int) -> bytes | None:
                backend.dict[named(key)] = known(key)
                found = backend.get_blocking(named(key))
                return None if found is None else bytes(found.byte_array)

            def close(self) -> None: ...

        return Open()


class TorchFiles(Peer):
    name, package = "torch.save, a file each", "torch"

    def open(self, folder: Path) -> Handle:
        torch = importlib.import_module("torch")

        class Open(_Plain):
            def put(self, key: int, value: bytes) -> None:
                tensor = torch.frombuffer(bytearray(value), dtype=torch.uint8)
                torch.save({"value": tensor}, self.path(key))

            def load(self, path: str) -> bytes:
                return bytes(torch.load(path, weights_only=True)["value"].numpy())

        return Open(folder, ".pt")


class SafetensorsFiles(Peer):
    name, package = "safetensors, a file each", "safetensors"

    def open(self, folder: Path) -> Handle:
        numpy, files = map(importlib.import_module, ("numpy", "safetensors.numpy"))

        class Open(_Plain):
            def put(self, key: int, value: bytes) -> None:
                files.save_file({"value": numpy.frombuffer(value, "u1")}, self.path(key))

            def load(self, path: str) -> bytes:
                return bytes(files.load_file(path)["value"])

        return Open(folder, ".safetensors")


class NumpyFiles(Peer):
    name, package = "numpy.save, a file each", "numpy"

    def open(self, folder: Path) -> Handle:
        numpy = importlib.import_module("numpy")

        class Open(_Plain):
            def put(self, key: int, value: bytes) -> None:
                numpy.save(self.path(key), numpy.frombuffer(value, "u1"))

            def load(self, path: str) -> bytes:
                return bytes(numpy.load(path))

        return Open(folder, ".npy")


class JoblibFiles(Peer):
    name, package = "joblib.dump, a file each", "joblib"

    def open(self, folder: Path) -> Handle:
        joblib, numpy = map(importlib.import_module, ("joblib", "numpy"))

        class Open(_Plain):
            def put(self, key: int, value: bytes) -> None:
                joblib.dump(numpy.frombuffer(value, "u1"), self.path(key))

            def load(self, path: str) -> bytes:
                return bytes(joblib.load(path))

        return Open(folder, ".pkl")


class ZarrArray(Peer):
    """A chunk each, with the compressor it takes by default."""

    name, package = "zarr 3, a chunk each", "zarr"
    metadata = ("zarr.json",)

    def open(self, folder: Path) -> Handle:
        zarr, numpy = map(importlib.import_module, ("zarr", "numpy"))
        shape = (GENERATIONS, self.size)
        if (folder / "zarr.json").exists():
            array = zarr.open_array(str(folder), mode="r+")
        else:
            array = zarr.create_array(
                str(folder), shape=shape, chunks=(1, self.size), dtype="u1", fill_value=0
            )

        class Open:
            def put(self, key: int, value: bytes) -> None:
                array[key] = numpy.frombuffer(value, "u1")

            def get(self, key: int) -> bytes | None:
                value = bytes(array[key])
                return value if any(value) else None  # the fill value is how it says nothing

            def close(self) -> None: ...

        return Open()


class PickleInSqlite(Peer):
    name = "pickle in SQLite (WAL)"

    def open(self, folder: Path) -> Handle:
        base = sqlite3.connect(folder / "cache.db", isolation_level=None)
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE IF NOT EXISTS cache (key INTEGER PRIMARY KEY, value BLOB)")

        class Open:
            def put(self, key: int, value: bytes) -> None:
                base.execute("REPLACE INTO cache VALUES (?, ?)", (key, pickle.dumps(value)))

            def get(self, key: int) -> bytes | None:
                row = base.execute("SELECT value FROM cache WHERE key = ?", (key,)).fetchone()
                return None if row is None else pickle.loads(row[0])

            def close(self) -> None:
                base.close()

        return Open()


class DumbShelve(Peer):
    name, metadata = "shelve (dbm.dumb)", ("shelf.dir",)

    def open(self, folder: Path) -> Handle:
        import dbm.dumb
        import shelve

        base: Any = dbm.dumb.open(str(folder / "shelf"))  # noqa: SIM115  # the shelf closes it
        shelf: shelve.Shelf[bytes] = shelve.Shelf(base)

        class Open:
            def put(self, key: int, value: bytes) -> None:
                shelf[str(key)] = value
                shelf.sync()

            def get(self, key: int) -> bytes | None:
                return shelf.get(str(key))

            def close(self) -> None:
                shelf.close()

        return Open()


class _Mapping:
    """A store that is like a dict."""

    def __init__(self, mapping: Any, *, close: Callable[[], object]) -> None:
        self._mapping, self._close = mapping, close

    def put(self, key: int, value: bytes) -> None:
        self._mapping[key] = value

    def get(self, key: int) -> bytes | None:
        value: bytes | None = self._mapping.get(key)
        return value

    def close(self) -> None:
        self._close()


class _Plain(ABC):
    """A file each, which is missing or loaded."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix

    def path(self, key: int) -> str:
        return str(self._folder / f"{key:064x}{self._suffix}")

    @abstractmethod
    def put(self, key: int, value: bytes) -> None: ...

    @abstractmethod
    def load(self, path: str) -> bytes: ...

    def get(self, key: int) -> bytes | None:
        try:
            return self.load(self.path(key))
        except FileNotFoundError:
            return None

    def close(self) -> None:  # noqa: B027  # nothing is open between calls
        pass


PEERS: tuple[Peer, ...] = (
    *(Blatam(), DiskCache(), SmallDiskCache(), VllmFiles(), SglangFiles()),
    *(LmcacheFiles(), LmcacheLocal(), TorchFiles(), SafetensorsFiles(), NumpyFiles()),
    *(JoblibFiles(), ZarrArray(), PickleInSqlite(), DumbShelve()),
)


# ---- reading and judging ------------------------------------------------------------------------


def in_child(work: Callable[[], object], *, seconds: int = READER_SECONDS) -> Any:
    """What the work returns, as JSON has it, in a process of its own; None if that died or took
    longer (0: as long as it likes)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(seconds)
        quiet()
        with suppress(BaseException), os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(said) if status == 0 and said else None


def quiet() -> None:
    """Nothing that a library prints while it meets damage."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def read_all(peer: Peer, folder: Path, keys: Sequence[int]) -> object:
    """Of each key the digest of its value, "" for a miss, or "!" and the error; None: it did not open."""
    try:
        store = peer.open(folder)
    except Exception:
        return {"closed": traceback.format_exc(limit=1)}
    answers = []
    for key in keys:
        try:
            value = store.get(key)
        except Exception as error:
            answers.append("!" + type(error).__name__)
        else:
            answers.append("" if value is None else digest(bytes(value)))
    return answers


def digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()


def judged(answers: Any, right: Sequence[set[str]], older: Sequence[set[str]]) -> str:
    """The outcome of a case: answers as ``read_all`` gave them; right and older of each key."""
    if answers is None:
        return "crash"
    if isinstance(answers, dict):
        return "closed"
    outcomes = set()
    for said, good, old in zip(answers, right, older, strict=True):
        if not said:
            outcomes.add("miss")
        elif said[0] == "!":
            outcomes.add("error")
        elif said not in good:
            outcomes.add("old" if said in old else "wrong")
    return next((outcome for outcome in OUTCOMES if outcome in outcomes), "harmless")


# ---- the cases ----------------------------------------------------------------------------------

Damage = Callable[[Path], None]


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def flips(folder: Path, count: int, chance: random.Random) -> Iterator[Damage]:
    files = [path.relative_to(folder) for path in files_of(folder)]
    sizes = [(folder / path).stat().st_size for path in files]
    for at in range(count):
        if at % 2:
            path = chance.choice(files)
            size = sizes[files.index(path)]
            edge = chance.randrange(min(EDGE, size))
            place = edge if at % 4 == 1 else size - 1 - edge
        else:
            (path,) = chance.choices(files, sizes)
            place = chance.randrange(sizes[files.index(path)])
        bit = 1 << chance.randrange(8)

        def flip(copy: Path, path: Path = path, place: int = place, bit: int = bit) -> None:
            with (copy / path).open("r+b") as file:
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ bit]))

        yield flip


def cuts(folder: Path, count: int, chance: random.Random) -> Iterator[Damage]:
    files = [path.relative_to(folder) for path in files_of(folder)]
    for at in range(count):
        path = files[at % len(files)]
        size = (folder / path).stat().st_size
        kept = 0 if at < len(files) else chance.randrange(size)
        yield lambda copy, path=path, kept=kept: os.truncate(copy / path, kept)  # type: ignore[misc]


def swaps(folder: Path, count: int, chance: random.Random) -> Iterator[Damage]:
    files = [path.relative_to(folder) for path in files_of(folder)]
    pairs = [(a, b) for a in files for b in files if a < b and a.suffix == b.suffix]
    pairs = [pair for pair in pairs if pair[0].name != "lock"]
    for one, other in chance.sample(pairs, min(count, len(pairs))):

        def swap(copy: Path, one: Path = one, other: Path = other) -> None:
            aside = copy / "aside"
            (copy / one).replace(aside)
            (copy / other).replace(copy / one)
            aside.replace(copy / other)

        yield swap


def stales(peer: Peer, before: Path, after: Path) -> Iterator[Damage]:
    there = [name for name in peer.metadata if (before / name).exists() or (after / name).exists()]
    for names in (
        ([[name] for name in there] + [there]) if len(there) > 1 else [there] * bool(there)
    ):

        def put_back(copy: Path, names: Sequence[str] = tuple(names)) -> None:
            for name in names:
                (copy / name).unlink(missing_ok=True)
                if (before / name).exists():
                    shutil.copy(before / name, copy / name)

        yield put_back


def prepared(peer: Peer, folder: Path) -> tuple[Path, Path, list[set[str]], list[set[str]]]:
    """A store before and after its last puts, and what is right and what is older then."""
    before, after = folder / "before", folder / "after"
    for path in (before, folder / "first"):
        path.mkdir()
    peer.open(folder / "first").close()  # so that no child has to import what it needs

    def write(path: Path, generation: int, keys: Sequence[int]) -> bool:
        with closing(peer.open(path)) as store:
            for key in keys:
                store.put(key, value_of(key, generation, peer.size))
        return True

    changed = range(0, KEYS, 2) if peer.overwrites else ()
    if in_child(lambda: write(before, 0, range(KEYS))) is None:
        raise Unusable("it could not write its store")
    shutil.copytree(before, after)
    if changed and in_child(lambda: write(after, 1, changed)) is None:
        raise Unusable("it could not write into its store again")
    first = [{digest(value_of(key, 0, peer.size))} for key in range(KEYS)]
    second = [{digest(value_of(key, 1, peer.size))} for key in range(KEYS)]
    right = [second[key] if key in changed else first[key] for key in range(KEYS)]
    older = [first[key] if key in changed else set() for key in range(KEYS)]
    return before, after, right, older


class Unusable(Exception):
    """A store that does not work here at all."""


def tried(peer: Peer, counts: dict[str, int], seed: int) -> dict[str, Counter[str]]:
    """As ``damaged``, in a process that has loaded nothing for the stores before."""

    def work() -> object:
        with tempfile.TemporaryDirectory() as folder:
            try:
                return damaged(peer, counts, Path(folder), seed)
            except Exception as error:
                return {"unusable": f"{type(error).__name__}: {error}"}

    found = in_child(work, seconds=0)
    if found is None or "unusable" in found:
        why = "the process ended" if found is None else found["unusable"]
        raise SystemExit(f"{peer.name} cannot be tried: {why}")
    return {case: Counter(outcomes) for case, outcomes in found.items()}


def damaged(peer: Peer, counts: dict[str, int], folder: Path, seed: int) -> dict[str, Counter[str]]:
    """How often each case ended how."""
    before, after, right, older = prepared(peer, folder)
    whole = judged(in_child(lambda: read_all(peer, after, range(KEYS))), right, older)
    if whole != "harmless":
        raise Unusable(f"a store without damage is judged {whole}")
    chance = random.Random(seed)
    cases = {
        "flip": flips(after, counts["flip"], chance),
        "cut": cuts(after, counts["cut"], chance),
        "swap": swaps(after, counts["swap"], chance),
        "stale": stales(peer, before, after),
    }
    outcomes = {name: Counter[str]() for name in CASES}
    for name, damages in cases.items():
        for damage in damages:
            copy = folder / "copy"
            shutil.copytree(after, copy)
            damage(copy)
            answers = in_child(lambda copy=copy: read_all(peer, copy, range(KEYS)))  # type: ignore[misc]
            outcomes[name][judged(answers, right, older)] += 1
            shutil.rmtree(copy)
    if peer.survives:
        for at in range(counts["kill"]):
            outcomes["kill"][killed(peer, folder / f"killed{at}", chance)] += 1
    return outcomes


def killed(peer: Peer, folder: Path, chance: random.Random) -> str:
    """A writer is killed; its store is read. Where puts do not replace, each has a key of its own."""
    folder.mkdir()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        quiet()
        try:
            store = peer.open(folder)
            for at in range(GENERATIONS):
                key, generation = place(peer, at)
                store.put(key, value_of(key, generation, peer.size))
                os.write(writing, b".")
        finally:
            os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    time.sleep(chance.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        done = 1 + len(pipe.read())
    tried = [place(peer, at) for at in range(done + 1)]  # one may have been under way
    keys = sorted({key for key, _ in tried})
    right = [{digest(value_of(key, g, peer.size)) for k, g in tried if k == key} for key in keys]
    answers = in_child(lambda: read_all(peer, folder, keys))
    shutil.rmtree(folder)
    if isinstance(answers, list):  # the last put had not returned: a miss is right, too
        key = tried[-1][0]
        if key not in {k for k, _ in tried[:-1]} and not answers[keys.index(key)]:
            answers[keys.index(key)] = next(iter(right[keys.index(key)]))
    return judged(answers, right, [set() for _ in keys])


def place(peer: Peer, at: int) -> tuple[int, int]:
    """Key and generation of the so many-th put."""
    return (at % KEYS, at // KEYS) if peer.overwrites else (at, 0)


# ---- telling ------------------------------------------------------------------------------------


def installed(package: str) -> str | None:
    if not package:
        return f"Python {sys.version.split()[0]}"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def told(outcome: Counter[str]) -> str:
    """A cell of the table: how many served something wrong or old, of how many."""
    bad, all_ = outcome["wrong"] + outcome["old"], outcome.total()
    return f"{bad}/{all_}" if all_ else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, count in (("flip", 400), ("cut", 60), ("swap", 30), ("kill", 30)):
        parser.add_argument(f"--{name}s", dest=name, type=int, default=count, metavar="N")
    parser.add_argument("--only", metavar="TEXT", help="stores whose names contain this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ |= {"LMCACHE_LOG_LEVEL": "ERROR", "VLLM_LOGGING_LEVEL": "ERROR"}
    counts = {name: getattr(options, name) for name in CASES if name != "stale"}
    results: dict[str, dict[str, Counter[str]]] = {}
    missing = []
    for peer in PEERS:
        if options.only and options.only not in peer.name:
            continue
        if installed(peer.package) is None:
            missing.append(peer.package)
            continue
        results[peer.name] = tried(peer, counts, options.seed)
        print(f"{peer.name}: done", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(results))
        return
    used = sorted({str(installed(p.package)) for p in PEERS if p.name in results})
    print(", ".join(used) + (f"; not installed: {', '.join(missing)}" if missing else ""))
    print("\nserved a wrong or an old value, of so many cases:")
    print(f"{'':26}" + "".join(f"{case:>10}" for case in CASES))
    for name, outcomes in results.items():
        print(f"{name:26}" + "".join(f"{told(outcomes[case]):>10}" for case in CASES))
    print("\nhow the cases ended:")
    print(f"{'':26}{'':6}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for name, outcomes in results.items():
        for case in CASES:
            if outcomes[case]:
                row = "".join(f"{outcomes[case][outcome]:>9}" for outcome in OUTCOMES)
                print(f"{name:26}{case:6}{row}")


if __name__ == "__main__":
    main()
