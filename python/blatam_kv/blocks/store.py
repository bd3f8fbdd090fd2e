"""``KVStore``: keys and values of prompts that were computed before, by any process, at any time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from blatam_kv.blocks.arguments import check_places, checked_pair, checked_queue, checked_ttl
from blatam_kv.blocks.below import Below, open_disk
from blatam_kv.blocks.binding import Binding
from blatam_kv.blocks.block import Block, block_weight
from blatam_kv.blocks.counts import Counts, KVStoreStats
from blatam_kv.blocks.events import Listener, News
from blatam_kv.blocks.far import Far
from blatam_kv.blocks.fork import Fork
from blatam_kv.blocks.image import Image
from blatam_kv.blocks.layers import LayerLoad
from blatam_kv.blocks.layout import KVLayout
from blatam_kv.blocks.levels import Levels
from blatam_kv.blocks.payload import Packing, arena_for
from blatam_kv.blocks.prompt import Prompt, token_ids
from blatam_kv.blocks.residents import Residents
from blatam_kv.blocks.stats import stats_of
from blatam_kv.blocks.tags import Tags, Words, tags_of
from blatam_kv.blocks.tenants import Tenants
from blatam_kv.cache import byte_count
from blatam_kv.errors import ConfigError, InvalidRequest, TierUnavailable, Unavailable
from blatam_kv.metrics.codecs import CodecWork
from blatam_kv.record import record_bytes
from blatam_kv.tiers import SharedTier, Tier
from blatam_kv.tiers.took import Took

# What ``codec="auto"`` writes below memory: as fast as memory, and smaller.
COLD_CODEC = "exp4"


class KVStore:
    """Blocks of keys and values by the tokens that led to them. Thread-safe.

    layout: what the model's keys and values look like. capacity_bytes: most bytes in memory, an int
    or ``"8GiB"``. path: a folder where blocks outlive the process; without one there is memory
    only. disk_bytes: most bytes in it, by default 8 times ``capacity_bytes`` and at most half of
    what is free. codec: how new blocks are encoded, one of ``codecs.NAMES``, or "auto": raw in
    memory, where blocks are hot, and exp4 below it, where they are cold and lose nothing either.
    Codecs that lose nothing serve one another's blocks, others only their own. write: "save" hands
    blocks to the disk at once, "evict" when memory is needed or the store is closed. queue_bytes:
    most bytes on their way there, by a thread of its own and beside ``capacity_bytes``; by default
    an eighth of that, at most 64 MiB; a save that finds no room waits. 0: a save returns when they
    are written. durable: when they would survive a power cut. read_only: open the folder beside its
    writer and leave it as it is; what is saved stays in memory. tier: another Tier in place of a
    folder; closed with the store. shared: below both, a tier that other nodes have too, a
    RedisTier; what is saved here is theirs a moment later, and fetched where that is quicker than
    computing (``observe``). It is used once the store has a model, and closed with it. policy: what
    leaves memory first, as in ``Cache``. threads: for encoding and decoding one tensor. clock,
    wall_clock: seconds that never go back, and seconds since 1970 for pins that outlive the
    process; for tests.

    model, tokenizer, lora, rope, salt: tags. All calls use them, and a block saved under other tags
    (or another layout) does not exist. salt is the tenant's secret, 0 to 64 bytes. A store without
    ``model`` is bound to the first one that uses it, see ``bind``.

    Prompts that begin alike share blocks, and nothing changes a block. What goes wrong below (a
    disk that fails, a flipped bit) is a miss and a counter. Wrong arguments raise InvalidRequest,
    wrong options ConfigError or TypeError, a folder that cannot be opened or a closed store
    TierUnavailable.
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
        policy: str = "adaptive",
        write: Literal["save", "evict"] = "save",
        durable: bool = False,
        queue_bytes: int | str | None = None,
        threads: int = 1,
        tier: Tier | None = None,
        shared: SharedTier | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(layout, KVLayout):
            raise TypeError(f"layout must be a KVLayout, not {type(layout).__name__}")
        auto = codec == "auto"
        arena = arena_for(byte_count("capacity_bytes", capacity_bytes))
        packing = Packing(layout, "raw" if auto else codec, arena, threads=threads)
        cold = Packing(layout, COLD_CODEC, arena, threads=threads) if auto else None
        fidelity = "lossless" if packing.lossless else codec
        words: dict[str, Words] = {"model": model, "tokenizer": tokenizer, "lora": lora}
        tags = tags_of(layout, fidelity, salt=salt, rope=rope, **words)
        check_places(path, tier, disk_bytes, read_only=read_only, write=write)
        self.layout = layout
        self._codec = codec
        self._news = News()
        self._counts = Counts()

        def pool(size: int | str) -> Residents:
            return Residents(capacity_bytes=size, policy=policy, news=self._news, clock=clock)

        residents = pool(capacity_bytes)
        least_bytes = block_weight(packing.most_bytes, 4 * layout.block_tokens)
        if path is None and tier is None and residents.capacity_bytes < least_bytes:
            raise ConfigError(
                f"capacity_bytes must be at least {least_bytes}, one block of this layout, "
                f"not {residents.capacity_bytes}"
            )
        if path is not None:
            most = max(packing.most_bytes, cold.most_bytes if cold is not None else 0)
            tier = open_disk(
                Path(path),
                record_bytes(layout.block_tokens, most),
                capacity_bytes=residents.capacity_bytes,
                disk_bytes=disk_bytes,
                read_only=read_only,
            )
        far = Far(
            shared,
            queue_bytes=checked_queue(None, residents.capacity_bytes),
            counts=self._counts,
            cold=cold,
            clock=clock,
        )
        below = Below(
            tier,
            read_only=read_only,
            clock=clock,
            counts=self._counts,
            far=far,
            cold=cold,
            queue_bytes=checked_queue(queue_bytes, residents.capacity_bytes),
        )
        below.describe(layout, codec, tags.model)
        self._levels = Levels(
            packing,
            residents,
            below,
            self._counts,
            heats=auto,
            at_once=write == "save",
            durable=durable,
        )
        self._binding = Binding(tags, below)
        self._owner: KVStore | None = None
        self._tenants = Tenants(self, pool, least_bytes=least_bytes)
        self._wall_clock = wall_clock
        self._image = self._new_image()

    # ---- prefixes -------------------------------------------------------------------------------

    def match_prefix(self, tokens: Any, *, partial: bool = False) -> int:
        """How many leading tokens are cached, a multiple of ``block_tokens`` unless ``partial``.

        tokens: a list of ints, or a 1-D integer array or CPU tensor, ids 0 ... 2**32 - 1. partial:
        as in ``load_prefix``. Reads no block and counts no use. Another thread, or damage on disk,
        may leave less for ``load_prefix``, whose answer is the one that counts.
        """
        prompt = self._prompt(tokens)
        found = self._levels.match(prompt)
        within = self._levels.match_within(prompt, found) if partial else 0
        return found * self.layout.block_tokens + within

    def load_prefix(self, tokens: Any, *, out: tuple[Any, Any], partial: bool = False) -> int:
        """Decode the longest cached prefix into the caller's tensors; returns the tokens filled.

        out: (keys, values), each ``[layers, n, kv_heads, head_dim]`` of the layout's dtype (numpy,
        torch on the CPU, or bits as uint16), with any outer strides and the inner dimension
        contiguous. They are filled from the front as far as whole blocks go; what lies behind is
        unspecified. partial: also use the beginning of a block in memory that goes on differently,
        or further than the prompt; the answer may then be any number.
        """
        room, keys, values = checked_pair(self.layout, out, writable=True)
        prompt = self._prompt(tokens)
        size = self.layout.block_tokens
        last = min(prompt.blocks, room // size)
        filled = self._levels.load(prompt, last, keys, values)
        count = size * filled
        if partial and filled == last:
            count += self._levels.load_within(prompt, filled, room - count, keys, values)
        elif partial:
            count += self._levels.load_within(prompt, filled, size, keys, values)
        self._news.deliver()
        return count

    def load_layers(self, tokens: Any, *, out: tuple[Any, Any]) -> LayerLoad:
        """Begin to load the longest cached prefix, layer by layer; see ``LayerLoad``.

        out: as for ``load_prefix``. What is on disk is read, and verified as a record, before this
        returns; only then is it known how many tokens will come.
        """
        room, keys, values = checked_pair(self.layout, out, writable=True)
        prompt = self._prompt(tokens)
        levels = self._levels
        blocks = levels.here(prompt, min(prompt.blocks, room // self.layout.block_tokens))
        self._news.deliver()

        def damaged(block: Block) -> None:
            levels.throw_away(block)
            self._news.deliver()

        return LayerLoad(levels.packing, blocks, (keys, values), damaged)

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
        return self._save(prompt, keys, values)

    def observe(self, tokens: int, seconds: float) -> None:
        """Tell how long the model took to read so many tokens of a prompt: what a block costs that is
        not fetched from the shared tier. Until it is told, whatever is there is fetched."""
        self._levels.below.far.worth.computed(tokens, seconds)

    def fork(self, tokens: Any) -> Fork:
        """Hold the longest cached prefix in memory for several continuations: samples, beams, agents.

        What is only on disk is read into memory first. Copies nothing, see ``Fork``::

            with store.fork(prompt) as trunk:       # trunk.tokens of it are held
                for more in continuations:
                    trunk.load(more, out=(keys, values))
        """
        fork = Fork(self, token_ids(tokens))
        self._news.deliver()
        return fork

    def pin_prefix(self, tokens: Any, *, ttl: float | None = None) -> int:
        """Keep a cached prefix in memory, a system prompt for example; returns the tokens kept.

        ttl: for so many seconds; None until ``unpin_prefix``. What is only on disk is read into
        memory first. Pinning a prefix again never shortens its time.
        """
        checked_ttl(ttl)
        prompt = self._prompt(tokens)
        pinned = self._levels.pin(prompt, ttl)
        self._news.deliver()
        self._image.save(pins_only=True)
        return pinned * self.layout.block_tokens

    def unpin_prefix(self, tokens: Any) -> int:
        """Let go of the longest pinned prefix of these tokens; returns its tokens, 0 if none is."""
        prompt = self._prompt(tokens)
        names = prompt.names(0, prompt.blocks)
        unpinned = self._levels.residents.unpin(names)
        self._image.save(pins_only=True)
        return unpinned * self.layout.block_tokens

    # ---- the store as a whole -------------------------------------------------------------------

    def bind(self, model: str) -> bool:
        """Say which model uses the store; True if it is this one's from now on or was before.

        model: a fingerprint of the weights. The first one binds a store that was opened without;
        the folder remembers it. Blocks saved before are then misses. For another model the answer is
        False with a warning, and it must do without the store.
        """
        if not isinstance(model, str) or not model:
            raise ConfigError(f"model must be a fingerprint, not {model!r}")
        bound = self._binding.bind(model, self._codec)
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
        return self._tags.model or None

    @property
    def read_only(self) -> bool:
        """Whether the folder is another's."""
        return self._levels.below.read_only

    @property
    def codec(self) -> str:
        """How new blocks are encoded."""
        return self._codec

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(event)`` for every block that comes into memory or leaves it.

        Events come in order, after the fact, on whatever thread caused them or another one's, with
        no lock held. Returns a function that ends it.
        """
        return self._news.subscribe(listener)

    def refresh(self) -> None:
        """Of a read-only store: see what the writer has written since. Happens by itself, at most
        once a second, when something is not found."""
        self._levels.below.refresh()

    def flush(self, *, durable: bool = False) -> None:
        """Write what is only in memory, or on its way, to the tier. durable: return when it is safe
        there."""
        self._require_open()
        self._flush()
        if durable:
            self._levels.below.sync()
        else:
            self._levels.below.flush()

    def tenant(self, salt: bytes, *, quota_bytes: int | str | None = None) -> KVStore:
        """The same store for a tenant: the same memory, folder and options, and names that nobody
        who does not know the salt can tell. Asking again gives the same one.

        salt: the tenant's secret, 1 to 64 bytes. quota_bytes: bytes of memory set aside, which are
        then the most that the tenant has and no other tenant's to take; None shares what nobody
        has set aside. Naming a quota again changes it. Closing a tenant closes nothing.

        Raises TypeError or ConfigError for a salt or a quota that does not fit.
        """
        self._require_open()
        if self._owner is not None:
            raise ConfigError("a tenant has no tenants; ask the store itself")
        return self._tenants.get(salt, quota_bytes)

    def clear(self, *, tenant: bytes | None = None, everyone: bool = False) -> None:
        """Forget all blocks under these tags, in memory and on disk, pinned ones too.

        tenant: a salt, to forget that tenant's in place of one's own. everyone: whatever is there, of
        all tenants and all tags. Raises TierUnavailable for a read-only store, whose folder is
        another's.
        """
        self._require_open()
        if self._levels.below.read_only:
            raise TierUnavailable(
                Unavailable.READ_ONLY,
                "the store was opened read-only; clear it where it is written",
            )
        if tenant is not None:
            self.tenant(tenant).clear()
            return
        if everyone:
            for each in self._tenants.all():
                each._levels.clear(None)
        self._levels.clear(None if everyone else self._tags.digest)
        self._image.save()
        self._news.deliver()

    def stats(self) -> KVStoreStats:
        """Exact counters, of a tenant's calls or of everybody's, and what one's pool of memory holds:
        that is everybody's who has none set aside. The tier's are the whole store's."""
        levels = self._levels
        return stats_of(self._counts, levels.residents, levels.below, self._news)

    @property
    def codec_work(self) -> Mapping[str, CodecWork]:
        """What ``encode`` and ``decode`` took, of blocks as a whole."""
        return self._levels.packing.work

    @property
    def tier_took(self) -> Took | None:
        """How long the tier takes, where a thread of its own writes there."""
        return self._levels.below.took

    @property
    def far_took(self) -> Took:
        """How long the shared tier takes."""
        return self._levels.below.far.took

    def close(self) -> None:
        """Write what was accepted and let go of the folder. Closing twice is harmless."""
        below = self._levels.below
        if self._owner is not None or below.closing:
            return
        below.closing = True
        self._flush()
        for each in self._tenants.pools():
            each._levels.residents.clear()
        self._news.deliver()
        below.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        residents = self._levels.residents
        held = residents.stats()
        return f"<KVStore {held.entries} blocks, {held.bytes} of {residents.capacity_bytes} bytes>"

    # ---- inside ---------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._levels.below.closing:
            raise TierUnavailable(Unavailable.CLOSED, "the store is closed")

    @property
    def _tags(self) -> Tags:
        return self._binding.tags

    def _save(self, prompt: Prompt, keys: Any, values: Any, *, first_token: int = 0) -> int:
        """Tensors of the prompt's tokens from ``first_token`` on, which begins a block."""
        size = self.layout.block_tokens
        saved = self._levels.save(prompt, keys, values, first=first_token // size)
        self._news.deliver()
        self._image.saved()
        return size * saved

    def _prompt(self, tokens: Any) -> Prompt:
        self._require_open()
        tags = self._tags
        ids = token_ids(tokens)
        return Prompt(ids, self.layout.block_tokens, root=tags.digest, salt=tags.salt)

    def _flush(self) -> None:
        for each in self._tenants.pools():
            each._levels.flush()
            each._image.save()

    def _new_image(self) -> Image:
        """What one's memory knew when that was last written; of a tier of the caller's, nothing."""
        image = Image(self._levels, lambda: self._tags.digest, self._wall_clock)
        image.recall()
        return image
