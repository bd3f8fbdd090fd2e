"""One model on several devices: a TruthGPT made of others that answer alike.

Each call is given to the device that the balancer chooses; where that fails before anything was
said, once to another. Whoever asks sees one model: its fingerprint is the same on every device, so
neither the key of an answer nor the answer says which of them wrote it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Self

from blatam_kv._core import chain_digests
from blatam_kv.devices import Balancer, Devices, DeviceSnapshot, Monitor, Ticket, Watch, Weights
from blatam_kv.errors import ConfigError, ModelError
from blatam_kv.metrics import TierSnapshot
from blatam_kv.truthgpt.protocol import (
    Chunk,
    Completion,
    Continues,
    HoldsTiers,
    Message,
    Sampling,
    TruthGPT,
    joined,
)

log = logging.getLogger("blatam_kv.truthgpt")

# A balancer needs proportions, not counts: a token is taken for four bytes of text, so that no
# tokenizer is asked, which may be at the other end of a network.
_TOKEN_BYTES = 4
# What a prompt begins with is known by blocks of 512 bytes, at most a quarter of a million.
_BLOCK_TOKENS, _MOST_BLOCKS = 128, 512
# How long an answer is, one knows when it is complete: this before the first, then a mean of all in
# which the latest counts a sixteenth.
_FIRST_ANSWER_TOKENS, _LATEST = 256.0, 1 / 16
_WEIGHTS = Weights(block_tokens=_BLOCK_TOKENS)

_PROBE = (Message("user", "?"),)
_ROOT = bytes(32)

Ask = Callable[[TruthGPT], Iterator[Chunk]]


class AnotherModel(ModelError):
    """What runs on a device is not the model that runs on the others."""

    elsewhere = True


class Replicas:
    """The same model on several devices; implements TruthGPT. Any number of threads may share it.

    models: by the name of the device that each runs on. monitor: what reads those devices, under the
    same names. affinity: whether each keeps prefixes of its own, so that a prompt is best given to
    the one that has its beginning; what shares a store on the host is as near to all. interval:
    seconds between looks at the devices.

    In a ``with`` it looks at the devices and probes those that failed; without, work tries them.
    Models and monitor that can be closed are closed at its end.
    """

    def __init__(
        self,
        models: Mapping[str, TruthGPT],
        monitor: Monitor | None = None,
        *,
        affinity: bool = True,
        weights: Weights = _WEIGHTS,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not models:
            raise ConfigError("a model needs at least one device to run on")
        self._models = dict(models)
        self._monitor = monitor
        self._affinity = affinity
        self._balancer = Balancer(Devices(self._models, monitor), weights=weights, clock=clock)
        self._watch = Watch(self._balancer, probe=self._probe, interval=interval)
        self._opened = ExitStack()
        self._lock = threading.Lock()  # guards _lead
        self._lead: TruthGPT | None = None  # whose fingerprint is everybody's
        self._answer_tokens = _FIRST_ANSWER_TOKENS

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._models)})"

    def __enter__(self) -> Self:
        for part in (*self._models.values(), self._monitor, self._watch):
            if isinstance(part, AbstractContextManager):
                self._opened.enter_context(part)
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    @property
    def models(self) -> tuple[TruthGPT, ...]:
        """The replicas, in the order of their devices."""
        return tuple(self._models.values())

    def devices(self) -> Sequence[DeviceSnapshot]:
        """Every device now."""
        return self._balancer.snapshots()

    def tiers(self) -> Sequence[TierSnapshot]:
        """What those of them keep on their devices that do."""
        holders = (model for model in self._models.values() if isinstance(model, HoldsTiers))
        return [tier for model in holders for tier in model.tiers()]

    # What all of them say.

    @property
    def model_id(self) -> str:
        """The model's."""
        return self.models[0].model_id

    @property
    def fingerprint(self) -> str:
        """The model's, on every device.

        At the first use every replica is asked, and loaded if need be. One whose device fails is
        left out, to be tried again; raises ConfigError for one that is another model, and ModelError
        if all fail.
        """
        return self._leading().fingerprint

    @property
    def context_tokens(self) -> int:
        """The model's."""
        return self._leading().context_tokens

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """The model's, asked of a device that is in the rotation."""
        well = (each.gpu for each in self._balancer.snapshots() if each.in_rotation)
        device = next(well, None)
        model = self._leading() if device is None else self._models[device]
        return model.count_tokens(messages)

    def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Completion:
        """The whole answer. Raises as ``stream`` does."""
        return joined(self.stream(messages, sampling=sampling, salt=salt))

    def stream(
        self, messages: Sequence[Message], *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """The same answer in pieces, from one device. Raises what the model does, at the first piece;
        what a device that fails raises, if it had said something or another has failed too."""
        return self._answer(
            lambda model: model.stream(messages, sampling=sampling, salt=salt),
            _text(messages, ""),
            sampling,
            salt,
        )

    # ---- inside ---------------------------------------------------------------------------------

    def _answer(self, ask: Ask, text: bytes, sampling: Sampling, salt: bytes) -> Iterator[Chunk]:
        read = len(text) // _TOKEN_BYTES + 1
        tokens = read + min(sampling.max_tokens, round(self._answer_tokens))
        prefix = _names(text, salt) if self._affinity else ()
        avoid: str | None = None
        failure: ModelError | None = None
        while True:
            ticket = self._balancer.choose(tokens, prefix=prefix, avoid=avoid)
            said = begun = False
            try:
                if failure is not None and ticket.gpu == avoid:
                    raise failure  # there is no other
                for chunk in ask(self._models[ticket.gpu]):
                    if not begun:
                        self._check_alike(ticket.gpu)
                        begun = True
                        ticket.progress(read - ticket.saved_tokens)
                    elif chunk.text:
                        ticket.progress(1)
                    if chunk.usage is not None:
                        more = chunk.usage.completion_tokens - self._answer_tokens
                        self._answer_tokens += _LATEST * more
                    said = said or bool(chunk.text)
                    yield chunk
                return
            except ModelError as error:
                if not error.elsewhere or error is failure:
                    raise
                self._failed(ticket, error)
                if said or failure is not None:
                    raise
                failure, avoid = error, ticket.gpu
            finally:
                ticket.done()

    def _failed(self, ticket: Ticket, error: ModelError) -> None:
        ticket.failed()
        log.warning("%s leaves the rotation: %s", ticket.gpu, error)

    def _probe(self, device: str) -> None:
        """Whether a device is well: the shortest answer there is. Raises ModelError if not."""
        sampling = Sampling(max_tokens=1, temperature=0.0)
        for _ in self._models[device].stream(_PROBE, sampling=sampling):
            pass
        self._check_alike(device)

    def _check_alike(self, device: str) -> None:
        """An endpoint may come back as something else. What it said so far nobody has heard."""
        if self._models[device].fingerprint != self.fingerprint:
            raise AnotherModel(f"{device} runs another model than {self._named(self._leading())}")

    def _leading(self) -> TruthGPT:
        if self._lead is None:
            with self._lock:
                if self._lead is None:
                    self._lead = self._agreed()
        return self._lead

    def _agreed(self) -> TruthGPT:
        """The first that can be asked, once all that can be asked have said the same."""
        lead: TruthGPT | None = None
        failure: ModelError | None = None
        for device, model in self._models.items():
            try:
                theirs = model.fingerprint
            except ModelError as error:
                if not error.elsewhere:
                    raise
                self._balancer.leave(device)
                log.warning("%s is left out for now: %s", device, error)
                failure = error
                continue
            if lead is None:
                lead = model
            elif theirs != lead.fingerprint:
                raise ConfigError(
                    f"{device} runs another model than {self._named(lead)}; devices that answer for "
                    "one another need the same weights, name and tokenizer"
                )
        if lead is None:
            assert failure is not None
            raise failure
        return lead

    def _named(self, model: TruthGPT) -> str:
        return next(name for name, each in self._models.items() if each is model)


class ContinuingReplicas(Replicas):
    """Replicas of a model that ``Continues``."""

    def resume(
        self, messages: Sequence[Message], begun: str, *, sampling: Sampling, salt: bytes = b""
    ) -> Iterator[Chunk]:
        """What follows ``begun``. Raises as ``stream`` does."""

        def ask(model: TruthGPT) -> Iterator[Chunk]:
            assert isinstance(model, Continues)
            return model.resume(messages, begun, sampling=sampling, salt=salt)

        return self._answer(ask, _text(messages, begun), sampling, salt)


def _text(messages: Sequence[Message], begun: str) -> bytes:
    """What a model reads, as far as a balancer is concerned: a prompt and what goes on from it begin
    alike."""
    turns = [f"\0{message.role}\0{message.content}" for message in messages]
    return "".join([*turns, f"\0assistant\0{begun}"]).encode(errors="replace")


def _names(text: bytes, salt: bytes) -> list[bytes]:
    """The names of its whole blocks, each of all before it too; those of a tenant are its own."""
    block = _BLOCK_TOKENS * _TOKEN_BYTES
    whole = min(len(text) // block, _MOST_BLOCKS) * block
    if not whole:
        return []
    words = memoryview(text)[:whole].cast("I")
    chain = chain_digests(words, block_tokens=_BLOCK_TOKENS, parent=_ROOT, key=salt)
    return [chain[at : at + 32] for at in range(0, len(chain), 32)]
