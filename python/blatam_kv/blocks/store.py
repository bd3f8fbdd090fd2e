"""``KVStore``: keys and values of prompts that were computed before, by any process, at any time."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from blatam_kv.blocks.arguments import checked_pair, checked_ttl
from blatam_kv.blocks.below import Below, open_disk
from blatam_kv.blocks.counts import Counts, KVStoreStats
from blatam_kv.blocks.events import Listener, News
from blatam_kv.blocks.layout import KVLayout
from blatam_kv.blocks.payload import Packing
from blatam_kv.blocks.prompt import Prompt, token_ids
from blatam_kv.blocks.residents import Block, Residents, block_weight
from blatam_kv.blocks.tags import Tags, Words, tags_of
from blatam_kv.errors import (
    ConfigError,
    CorruptBlob,
    InvalidRequest,
    TierUnavailable,
    Unavailable,
    Unsupported,
)
from blatam_kv.record import Kind, Record, record_bytes
from blatam_kv.tiers import Tier

# How much is encoded, or read from a tier, before it is handed on: what a call holds in memory
# beyond the store's bound.
PORTION_BYTES = 16 << 20
# Saves of the same prompt take the same lock, others mostly not.
_SAVE_LOCKS = 16


class KVStore:
    """Blocks of keys and values by the tokens that led to them. Thread-safe.

    layout: what the model's keys and values look like. capacity_bytes: most bytes in memory, an int
    or ``"8GiB"``. path: a folder where blocks outlive the process; without one there is memory
    only. disk_bytes: most bytes in it, by default 8 times ``capacity_bytes`` and at most half of
    what is free. codec: how new blocks are encoded, one of ``codecs.NAMES``. Codecs that lose nothing
    serve one another's blocks, others only their own. write: "save" puts blocks on disk at once, "evict"
    when memory is needed or the store is closed. durable: whether saving waits until they would
    survive a power cut. read_only: open the folder beside its writer and leave it as it is; what is
    saved stays in memory. tier: another Tier in place of a folder; closed with the store. policy:
    what leaves memory first, as in ``Cache``. threads: for encoding and decoding one tensor.
    clock: seconds that never go back, for tests.

    model, tokenizer, lora, rope, salt: tags. All calls use them, and a block saved under other tags
    (or another layout) does not exist. salt is the tenant's secret, 0 to 64 bytes. A store without
    ``model`` is bound to the first one that uses it, see ``bind``.

    Prompts that begin alike share blocks: a fork costs nothing, and nothing changes a block. What
    goes wrong below (a disk that fails, a flipped bit) is a miss and a counter. Wrong arguments
    raise InvalidRequest, wrong options ConfigError or TypeError, a folder that cannot be opened or
    a closed store TierUnavailable.
    """

    def __init__(
        self,
        layout: KVLayout,
        *,
        capacity_bytes: int | str,
        disk_bytes: int | str | None = None,
        codec: str = "raw",
        path: str | Path | None = None,
        salt: bytes = b"",
        read_only: bool = False,
        model: str | None = None,
        tokenizer: str | None = None,
        lora: str | None = None,
        rope: Words = None,
        policy: str = "lru",
        write: Literal["save", "evict"] = "save",
        durable: bool = False,
        threads: int = 1,
        tier: Tier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(layout, KVLayout):
            raise TypeError(f"layout must be a KVLayout, not {type(layout).__name__}")
        self._packing = Packing(layout, codec, threads=threads)
        fidelity = "lossless" if self._packing.lossless else codec
        words: dict[str, Words] = {"model": model, "tokenizer": tokenizer, "lora": lora}
        tags = tags_of(layout, fidelity, salt=salt, rope=rope, **words)
        if write not in ("save", "evict"):
            raise ConfigError(f"write must be 'save' or 'evict', not {write!r}")
        if path is None and (read_only or disk_bytes is not None):
            option = "read_only" if read_only else "disk_bytes"
            raise ConfigError(f"{option} speaks of a folder; pass path= too")
        if path is not None and tier is not None:
            raise ConfigError("path and tier are two places for the same blocks; pass one")
        self.layout = layout
        self._news = News()
        self._counts = Counts()
        self._residents = Residents(
            capacity_bytes=capacity_bytes, policy=policy, news=self._news, clock=clock
        )
        capacity = self._residents.capacity_bytes
        least = block_weight(self._packing.most_bytes, 4 * layout.block_tokens)
        if path is None and tier is None and capacity < least:
            raise ConfigError(
                f"capacity_bytes must be at least {least}, one block of this layout, not {capacity}"
            )
        if path is not None:
            tier = open_disk(
                Path(path),
                record_bytes(layout.block_tokens, self._packing.most_bytes),
                capacity_bytes=capacity,
                disk_bytes=disk_bytes,
                read_only=read_only,
            )
        self._below = Below(tier, read_only=read_only, clock=clock)
        self._below.describe(layout, codec, tags.model)
        self._write, self._durable = write, durable
        self._portion = max(1, PORTION_BYTES // self._packing.most_bytes)
        self._tags = tags if tags.model else tags.bound_to(self._below.model)
        self._tags_lock = threading.Lock()  # they change once at most
        self._save_locks = tuple(threading.Lock() for _ in range(_SAVE_LOCKS))
        self._closed = False

    # ---- prefixes -------------------------------------------------------------------------------

    def match_prefix(self, tokens: Any) -> int:
        """How many leading tokens are cached, a multiple of ``block_tokens``.

        tokens: a list of ints, or a 1-D integer array or CPU tensor, ids 0 ... 2**32 - 1. Reads no
        block and counts no use. Another thread, or damage on disk, may leave less for
        ``load_prefix``, whose answer is the one that counts.
        """
        prompt = self._prompt(tokens)
        found = len(self._residents.walk(prompt, prompt.blocks))
        for _, names in prompt.portions(found, prompt.blocks):
            known = self._below.known(names)
            found += known.index(False) if False in known else len(known)
            if not all(known):
                break
        return found * self.layout.block_tokens

    def load_prefix(self, tokens: Any, *, out: tuple[Any, Any]) -> int:
        """Decode the longest cached prefix into the caller's tensors; returns the tokens filled.

        out: (keys, values), each ``[layers, n, kv_heads, head_dim]`` of the layout's dtype (numpy,
        torch on the CPU, or bits as uint16), with any outer strides and the inner dimension
        contiguous. They are filled from the front as far as whole blocks go; what lies behind is
        unspecified.
        """
        room, keys, values = checked_pair(self.layout, out, writable=True)
        prompt = self._prompt(tokens)
        last = min(prompt.blocks, room // self.layout.block_tokens)
        resident = self._residents.walk(prompt, last)
        self._residents.use(resident)
        filled = 0
        for block in resident:
            if not self._decoded(block, keys, values):
                self._residents.discard(block.name)
                break
            filled += 1
        from_memory = filled
        for blocks in self._fetched(prompt, filled, last, (keys, values)):
            self._admit(blocks, promoted=True)
            filled += len(blocks)
        self._news.deliver()
        size = self.layout.block_tokens
        self._counts.add(
            lookups=1,
            tokens_asked=size * last,
            tokens_from_memory=size * from_memory,
            tokens_from_tier=size * (filled - from_memory),
        )
        return size * filled

    def save_prefix(self, tokens: Any, keys: Any, values: Any) -> int:
        """Keep the whole blocks of a prompt; returns how many leading tokens are cached now.

        keys, values: ``[layers, len(tokens), kv_heads, head_dim]``, as for ``load_prefix``. Blocks
        that are there already are left as they are. Where memory has no room, or the tier fails,
        less is stored.
        """
        given, keys, values = checked_pair(self.layout, (keys, values), writable=False)
        prompt = self._prompt(tokens)
        if given != prompt.tokens:
            raise InvalidRequest(
                f"keys and values have {given} tokens, tokens has {prompt.tokens}", field="keys"
            )
        # Of those who save the same at once the first one does it, and the rest find it done. The
        # last block names the whole; a lock by the first missing one would change under the save.
        last = (prompt.names(prompt.blocks - 1, prompt.blocks) or [prompt.root])[0]
        with self._save_locks[last[0] % _SAVE_LOCKS]:
            saved = self._save(prompt, keys, values)
        self._news.deliver()
        return self.layout.block_tokens * saved

    def pin_prefix(self, tokens: Any, *, ttl: float | None = None) -> int:
        """Keep a cached prefix in memory, a system prompt for example; returns the tokens kept.

        ttl: for so many seconds; None until ``unpin_prefix``. What is only on disk is read into
        memory first. Pinning a prefix again never shortens its time.
        """
        checked_ttl(ttl)
        prompt = self._prompt(tokens)
        found = len(self._residents.walk(prompt, prompt.blocks))
        for below in self._fetched(prompt, found, prompt.blocks, None):
            self._admit(below, promoted=True)
        self._news.deliver()
        blocks = self._residents.walk(prompt, prompt.blocks)
        return self._residents.pin(blocks, ttl) * self.layout.block_tokens

    def unpin_prefix(self, tokens: Any) -> int:
        """Let go of the longest pinned prefix of these tokens; returns its tokens, 0 if none is."""
        prompt = self._prompt(tokens)
        names = prompt.names(0, prompt.blocks)
        return self._residents.unpin(names) * self.layout.block_tokens

    # ---- the store as a whole -------------------------------------------------------------------

    def bind(self, model: str) -> bool:
        """Say which model uses the store; True if it is this one's from now on or was before.

        model: a fingerprint of the weights. The first one binds a store that was opened without;
        the folder remembers it. Blocks saved before are then misses. For another model the answer is
        False with a warning, and it must do without the store.
        """
        if not isinstance(model, str) or not model:
            raise ConfigError(f"model must be a fingerprint, not {model!r}")
        with self._tags_lock:
            if not self._tags.model:
                self._tags = self._tags.bound_to(model)
                self._below.describe(self.layout, self._packing.codec, model)
            bound = self._tags.model
        if bound != model:
            warnings.warn(
                f"this store holds blocks of another model ({bound[:16]}…, not {model[:16]}…); "
                "they are not used. Open a store of its own for each model",
                stacklevel=2,
            )
        return bound == model

    @property
    def model(self) -> str | None:
        """What it is bound to."""
        return self._current_tags().model or None

    @property
    def read_only(self) -> bool:
        """Whether the folder is another's."""
        return self._below.read_only

    @property
    def codec(self) -> str:
        """How new blocks are encoded."""
        return self._packing.codec

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(event)`` for every block that comes into memory or leaves it.

        Events come in order, after the fact, on whatever thread caused them or another one's, with
        no lock held. Returns a function that ends it.
        """
        return self._news.subscribe(listener)

    def refresh(self) -> None:
        """Of a read-only store: see what the writer has written since. Happens by itself, at most
        once a second, when something is not found."""
        self._below.refresh()

    def flush(self, *, durable: bool = False) -> None:
        """Write what is only in memory to the tier. durable: return when it is safe there."""
        self._require_open()
        self._flush(durable=durable)

    def clear(self) -> None:
        """Forget all blocks under these tags, in memory and on disk, pinned ones too.

        Raises TierUnavailable for a read-only store, whose folder is another's.
        """
        self._require_open()
        if self._below.read_only:
            raise TierUnavailable(
                Unavailable.READ_ONLY,
                "the store was opened read-only; clear it where it is written",
            )
        gone = self._residents.clear()
        self._below.forget([block.name for block in gone])
        self._below.forget_tagged(self._current_tags().digest)
        self._news.deliver()

    def stats(self) -> KVStoreStats:
        """Exact counters."""
        memory, count = self._residents.stats(), self._counts
        return KVStoreStats(
            policy=memory.policy,
            capacity_bytes=self._residents.capacity_bytes,
            blocks=memory.entries,
            bytes=memory.bytes,
            pinned=self._residents.pinned(),
            lookups=count["lookups"],
            tokens_asked=count["tokens_asked"],
            tokens_from_memory=count["tokens_from_memory"],
            tokens_from_tier=count["tokens_from_tier"],
            saved=count["saved"],
            evicted=memory.evictions["capacity"],
            spilled=count["spilled"],
            promoted=count["promoted"],
            refused=count["refused"],
            damaged=count["damaged"],
            foreign=count["foreign"],
            tier_failures=self._below.failures,
            listener_failures=self._news.failures,
            tier=self._below.stats(),
        )

    def close(self) -> None:
        """Write what was accepted and let go of the folder. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._flush(durable=False)
            self._residents.clear()
            self._news.deliver()
            self._below.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        held = self._residents.stats()
        return f"<KVStore {held.entries} blocks, {held.bytes} of {held.capacity_bytes} bytes>"

    # ---- inside ---------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._closed:
            raise TierUnavailable(Unavailable.CLOSED, "the store is closed")

    def _current_tags(self) -> Tags:
        # A read-only store that is unbound follows the writer.
        if not self._tags.model and self._below.model:
            with self._tags_lock:
                if not self._tags.model:
                    self._tags = self._tags.bound_to(self._below.model)
        return self._tags

    def _prompt(self, tokens: Any) -> Prompt:
        self._require_open()
        tags = self._current_tags()
        ids = token_ids(tokens)
        return Prompt(ids, self.layout.block_tokens, root=tags.digest, salt=tags.salt)

    def _decoded(self, block: Block, keys: Any, values: Any) -> bool:
        """Put a block where it belongs; False, counted, if it is damaged."""
        try:
            first = block.position * self.layout.block_tokens
            self._packing.decode(block.payload, keys, values, first)
        except (CorruptBlob, Unsupported):
            self._counts.add(damaged=1)
            return False
        return True

    def _fetched(
        self, prompt: Prompt, first: int, last: int, out: tuple[Any, Any] | None
    ) -> Iterator[list[Block]]:
        """Blocks from first on as the tier has them, verified and decoded into ``out``, a portion
        at a time, until one is missing or ``last`` is reached."""
        while first < last:
            names = prompt.names(first, min(first + self._portion, last))
            known = self._below.known(names)
            wanted = names[: known.index(False)] if False in known else names
            blocks: list[Block] = []
            for name, record in zip(wanted, self._below.fetch(wanted), strict=True):
                block = self._believed(record, prompt, first + len(blocks))
                if block is None or (out is not None and not self._decoded(block, *out)):
                    if record is not None:
                        self._below.forget([name])
                    break
                blocks.append(block)
            if blocks:
                yield blocks
            if len(blocks) < len(names):
                return
            first += len(blocks)

    def _believed(self, record: Record | None, prompt: Prompt, position: int) -> Block | None:
        """The block that a tier's record holds, if it is the one that was asked for."""
        if record is None:
            return None
        tokens = prompt.block(position)
        if (
            record.kind is not Kind.BLOCK
            or record.tags != prompt.root
            or record.tokens != tokens
            or not self._packing.accepts(record.codec)
        ):
            self._counts.add(foreign=1)
            return None
        return Block(
            name=record.key,
            parent=prompt.parent(position),
            position=position,
            tokens=tokens,
            payload=record.payload,
            codec=record.codec,
            tags=prompt.root,
        )

    def _admit(self, blocks: Sequence[Block], *, promoted: bool = False) -> int:
        """Take successive blocks into memory as far as there is room; what leaves goes below.
        Returns how many are in memory now."""
        taken, evicted = self._residents.add(blocks)
        unknown = self._unknown(evicted)
        spilled = self._below.keep(unknown) if unknown else False
        self._counts.add(
            refused=len(blocks) - taken,
            promoted=taken if promoted else 0,
            spilled=len(unknown) if spilled else 0,
        )
        return taken

    def _unknown(self, blocks: Sequence[Block]) -> list[Record]:
        """Records of those blocks that are not below yet, where there is a below to write to."""
        if not blocks or not self._below.writable:
            return []
        known = self._below.known([block.name for block in blocks])
        now_us = time.time_ns() // 1000
        return [
            block.record(now_us) for block, there in zip(blocks, known, strict=True) if not there
        ]

    def _save(self, prompt: Prompt, keys: Any, values: Any) -> int:
        """Store what is missing; returns how many leading blocks are in memory or below."""
        resident = self._residents.walk(prompt, prompt.blocks)
        there = self._below.known(prompt.names(0, prompt.blocks))
        at_once = self._write == "save"
        if at_once:
            self._keep(list(reversed(resident)))
        kept = [at < len(resident) or known for at, known in enumerate(there)]
        room = True
        for first in range(len(resident), prompt.blocks, self._portion):
            wanted = range(first, min(first + self._portion, prompt.blocks))
            if not room and not self._below.writable:
                break
            try:
                blocks = [
                    self._encoded(prompt, at, keys, values)
                    for at in wanted
                    if room or not there[at]
                ]
            except MemoryError:
                self._counts.add(refused=len(wanted))
                break
            taken = self._admit(blocks) if room else 0
            room = room and taken == len(blocks)
            for block in blocks[:taken]:
                kept[block.position] = True
            below = [block for block in (blocks if at_once else blocks[taken:])]
            if self._keep(list(reversed(below))):
                for block in below:
                    kept[block.position] = True
            self._counts.add(saved=sum(kept[block.position] for block in blocks))
        self._residents.use(self._residents.walk(prompt, prompt.blocks))
        return kept.index(False) if False in kept else len(kept)

    def _keep(self, blocks: Sequence[Block]) -> bool:
        """See to it that the tier has these; True if it has."""
        unknown = self._unknown(blocks)
        return self._below.writable and (
            not unknown or self._below.keep(unknown, durable=self._durable)
        )

    def _encoded(self, prompt: Prompt, position: int, keys: Any, values: Any) -> Block:
        first = position * self.layout.block_tokens
        return Block(
            name=prompt.names(position, position + 1)[0],
            parent=prompt.parent(position),
            position=position,
            tokens=prompt.block(position),
            payload=self._packing.encode(keys, values, first),
            codec=self._packing.codec,
            tags=prompt.root,
        )

    def _flush(self, *, durable: bool) -> None:
        # The ends of prompts first: what is oldest on disk leaves first there too.
        blocks = sorted(self._residents.all(), key=lambda block: -block.position)
        for first in range(0, len(blocks), self._portion):
            if unknown := self._unknown(blocks[first : first + self._portion]):
                self._below.keep(unknown)
        if durable:
            self._below.sync()
