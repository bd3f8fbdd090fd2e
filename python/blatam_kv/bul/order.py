"""A request with nothing left open: what the model will be told, and the key of its answer.

The key is a digest of exactly what determines the answer: the model, the messages it reads and how
tokens are chosen. Two requests that differ elsewhere (format, priority, spelling out a language
that was guessed anyway) share one answer, and that is right: the model would say the same. The digest
is keyed by the tenant's salt: the same request of two tenants has two keys.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from blatam_kv._core import framed_digest
from blatam_kv.bul import analyse
from blatam_kv.bul.caller import ITSELF, Caller
from blatam_kv.bul.request import QueryRequest
from blatam_kv.bul.wishes import USUAL, Wishes, cache_key, wishes_of
from blatam_kv.documents.templates import VERSION, template
from blatam_kv.truthgpt.brief import Brief
from blatam_kv.truthgpt.protocol import Continues, Message, Sampling, TruthGPT

_ANSWER = b"blatamkv-resp-v1"
_SEED = b"blatamkv-seed-v1"
# Of a document along an outline, if the request does not say.
LONG_TOKENS = 3072


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be written, and for which tenant. inferred: fields guessed from the query. key: the
    tenant's name for the answer in the cache.

    outline: the headings to write under, one after the other; empty where the model cannot, or is to
    find its own.
    """

    brief: Brief
    messages: tuple[Message, ...]
    sampling: Sampling
    inferred: tuple[str, ...]
    digest: bytes
    tenant: str
    salt: bytes = field(repr=False)
    outline: tuple[str, ...] = ()
    key: str = ""
    wishes: Wishes = USUAL

    @property
    def flight(self) -> bytes:
        """What is the same for all who may share one writing; its own for who wants anything of the
        cache that others do not."""
        return self.digest if self.wishes.shared else self.digest + id(self).to_bytes(8, "big")


def place(request: QueryRequest, model: TruthGPT, caller: Caller = ITSELF) -> Order:
    """The order for a checked request: guesses made, seed derived, digest computed."""
    inferred: list[str] = []

    def given_or(name: str, guess: Callable[[], str]) -> str:
        value: str | None = getattr(request, name)
        if value is None:
            inferred.append(name)
            return guess()
        return value

    language = given_or("language", lambda: analyse.language(request.query))
    document_type = given_or("document_type", lambda: _guess_type(request))
    brief = Brief(
        query=request.query,
        language=language,
        document_type=document_type,
        business_area=given_or("business_area", lambda: analyse.AREA_OF_TYPE[document_type]),
        company_name=request.company_name or "",
        industry=request.industry or "",
        company_size=request.company_size or "",
        target_audience=request.target_audience or "",
    )
    messages = tuple(brief.messages())
    outline = _outline(request, model, brief)
    sampling = _sampling(request, messages, long=bool(outline))
    namespace = None if request.cache is None else request.cache.namespace
    digest = answer_digest(
        model, messages, sampling, outline=outline, salt=caller.salt, namespace=namespace
    )
    return Order(
        brief=brief,
        messages=messages,
        sampling=sampling,
        inferred=tuple(inferred),
        digest=digest,
        tenant=caller.tenant,
        outline=outline,
        salt=caller.salt,
        key=cache_key(digest, caller.salt),
        wishes=wishes_of(request.cache, ""),
    )


def answer_digest(
    model: TruthGPT,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    outline: Sequence[str] = (),
    salt: bytes,
    person: bytes = _ANSWER,
    namespace: str | None = None,
) -> bytes:
    """The 32-byte key of the answer: BLAKE2b-256, keyed by the salt, over length-framed fields.

    outline: counts with the version of how documents are written along one. person: keeps apart
    what is made of the same words for another use; namespace: what the caller keeps apart.
    """
    fields = [
        *_texts(model.model_id, model.fingerprint),
        *_framed_messages(messages),
        *_texts(str(sampling.max_tokens), str(sampling.seed)),
        struct.pack(">dd", sampling.temperature, sampling.top_p),
        *_texts(str(len(sampling.stop)), *sampling.stop),
        *_texts(*([] if namespace is None else ["namespace", namespace])),
    ]
    if outline:
        fields += _texts(f"outline {VERSION}", *outline)
    return framed_digest(fields, key=salt, person=person)


def seed_of(messages: Sequence[Message]) -> int:
    """The seed of those who give none: the same words have the same one."""
    digest = framed_digest(_framed_messages(messages), person=_SEED)
    return int.from_bytes(digest[:8], "big")


def _guess_type(request: QueryRequest) -> str:
    if guess := analyse.document_type(request.query):
        return guess
    if request.business_area:
        return analyse.type_of_area(request.business_area)
    return analyse.DEFAULT_TYPE


def _outline(request: QueryRequest, model: TruthGPT, brief: Brief) -> tuple[str, ...]:
    if not isinstance(model, Continues):
        return ()
    if request.outline is not None:
        return tuple(request.outline)
    return template(brief.document_type, brief.language).sections


def _sampling(request: QueryRequest, messages: Sequence[Message], *, long: bool) -> Sampling:
    usual = Sampling(max_tokens=LONG_TOKENS) if long else Sampling()
    seed = request.seed
    if seed is None:
        seed = seed_of(messages)
    return Sampling(
        max_tokens=usual.max_tokens if request.max_length is None else request.max_length,
        # Adding zero turns -0.0 into 0.0: one temperature, one key.
        temperature=usual.temperature if request.temperature is None else request.temperature + 0.0,
        seed=seed,
    )


def _framed_messages(messages: Sequence[Message]) -> list[bytes]:
    turns = [text for message in messages for text in (message.role, message.content)]
    return _texts(str(len(messages)), *turns)


def _texts(*values: str) -> list[bytes]:
    return [value.encode() for value in values]
