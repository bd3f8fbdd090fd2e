"""The key of an answer: what must change it, and what must not."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import fields, replace
from typing import Any

import pytest
from bul_fakes import Scripted

from blatam_kv._core import framed_digest
from blatam_kv.bul.caller import ITSELF
from blatam_kv.bul.order import Order, answer_digest, place
from blatam_kv.bul.request import parse_request
from blatam_kv.bul.wanted import Wanted
from blatam_kv.truthgpt.brief import Brief
from blatam_kv.truthgpt.protocol import Message, Sampling

SALT = bytes(range(32))
MODEL = Scripted()
BASE: dict[str, Any] = {
    "query": "Plan de negocio",
    "language": "es",
    "document_type": "business_plan",
    "business_area": "strategy",
    "company_name": "Espiga",
    "industry": "food",
    "company_size": "12",
    "target_audience": "bank",
    "max_length": 100,
    "temperature": 0.5,
    "seed": 1,
}


def order(**changes: Any) -> Order:
    return place(parse_request(BASE | changes), MODEL)


def test_the_published_vector_of_a_response_key() -> None:
    salt = bytes.fromhex("b0ef4fc03c05eb4fdac60fce93e3c4adb59b1bb80cd63cd907e900b6f39b1ef5")
    asked = [b"truthgpt", b"0.0", b"512", b"markdown", b"Informe solar"]
    digest = framed_digest(asked, key=salt, person=b"blatamkv-resp-v1")
    assert digest.hex() == "e8162db7d76c9625784391c2a61a0234fc53877a997114d5120bb8aa80367ea1"


def test_the_digest_is_blake2b_over_framed_fields_in_the_documented_order() -> None:
    sampling = Sampling(max_tokens=7, temperature=0.25, top_p=0.5, seed=3, stop=("x",))
    expected = hashlib.blake2b(digest_size=32, key=SALT, person=b"blatamkv-resp-v1")
    for field in (
        *(b"scripted", b"f1", b"2", b"system", b"s", b"user", b"u", b"7", b"3"),
        *(struct.pack(">dd", 0.25, 0.5), b"1", b"x"),
    ):
        expected.update(struct.pack(">I", len(field)) + field)
    messages = [Message("system", "s"), Message("user", "u")]
    assert answer_digest(MODEL, messages, sampling, salt=SALT) == expected.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"query": "Plan de negocios"},
        {"language": "en"},
        {"document_type": "strategic_plan"},
        {"business_area": "sales"},
        {"company_name": "Espigas"},
        {"company_name": None},
        {"industry": "feed"},
        {"company_size": "13"},
        {"target_audience": "banks"},
        {"max_length": 101},
        {"temperature": 0.6},
        {"seed": 2},
        {"seed": None},
    ],
)
def test_what_changes_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert order(**change).digest != order().digest


@pytest.mark.parametrize(
    "change",
    [{"format": "html"}, {"priority": 0}, {"query": "  Plan de negocio\n"}, {"temperature": 0.5}],
)
def test_what_leaves_the_answer_alone_leaves_the_key_alone(change: dict[str, Any]) -> None:
    assert order(**change).digest == order().digest


def test_the_same_text_in_another_unicode_form_has_the_same_key() -> None:
    assert order(query="cafe\u0301").digest == order(query="caf\u00e9").digest


def test_every_part_of_the_brief_and_of_the_sampling_is_in_the_key() -> None:
    brief = order().brief
    others: dict[str, Any] = {"language": "en"}
    for field in fields(Brief):
        changed = replace(brief, **{field.name: others.get(field.name, "other")})
        assert tuple(changed.messages()) != order().messages, field.name
    base = answer_digest(MODEL, order().messages, Sampling(), salt=SALT)
    values: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 0.1,
        "top_p": 0.1,
        "seed": 5,
        "stop": ("a",),
    }
    for sampled in fields(Sampling):
        sampling = Sampling(**{sampled.name: values[sampled.name]})
        assert answer_digest(MODEL, order().messages, sampling, salt=SALT) != base, sampled.name


def test_another_tenant_has_another_key_for_the_same_request() -> None:
    other = replace(ITSELF, tenant="other", salt=SALT)
    placed = place(parse_request(BASE), MODEL, other)
    assert placed.tenant == "other"
    assert placed.digest != order().digest
    assert placed.sampling == order().sampling


def test_another_model_or_other_weights_have_another_key() -> None:
    other, retrained = Scripted(), Scripted()
    other.model_id = "other"
    retrained.fingerprint = "f2"
    request = parse_request(BASE)
    digests = {place(request, model).digest for model in (MODEL, other, retrained)}
    assert len(digests) == 3


def test_text_moved_from_one_field_to_the_next_has_another_key() -> None:
    split = order(company_name="ab", industry="c").digest
    assert split != order(company_name="a", industry="bc").digest


def test_minus_zero_is_zero() -> None:
    assert order(temperature=-0.0).digest == order(temperature=0).digest


def test_the_seed_follows_from_the_request() -> None:
    first, second = order(seed=None), order(seed=None, query="Another plan")
    assert order(seed=None).sampling.seed == first.sampling.seed != second.sampling.seed


def test_guesses_are_named_and_share_the_key_of_the_same_thing_spelt_out() -> None:
    asked = {"query": "Informe financiero de la clínica"}
    guessed = place(parse_request(asked), MODEL)
    assert guessed.inferred == ("language", "document_type", "business_area")
    assert guessed.brief.document_type == "financial_report"
    assert guessed.brief.business_area == "finance"
    spelt_out = asked | {
        "language": "es",
        "document_type": "financial_report",
        "business_area": "finance",
    }
    told = place(parse_request(spelt_out), MODEL)
    assert told.inferred == ()
    assert told.digest == guessed.digest


def test_an_area_alone_decides_the_type_when_the_query_does_not() -> None:
    placed = place(parse_request({"query": "algo", "business_area": "hr"}), MODEL)
    assert placed.brief.document_type == "hr_policy"


def test_what_is_wanted_is_worked_out_once_for_each_caller_and_model() -> None:
    model, other = Scripted(), replace(ITSELF, tenant="other", salt=SALT)
    wanted = Wanted(parse_request(BASE), place)
    first = wanted.order(model, ITSELF)
    assert first == place(wanted.request, model, ITSELF)
    assert wanted.order(model, ITSELF) is first
    theirs = wanted.order(model, other)
    assert theirs == place(wanted.request, model, other)
    same_salt = replace(other, tenant="third")
    assert wanted.order(model, same_salt).tenant == "third"
    model.fingerprint = "f2"
    assert wanted.order(model, ITSELF) == place(wanted.request, model, ITSELF) != first
