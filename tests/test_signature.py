"""The signing profile: the published vector, and every way a signature can be wrong."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.errors import InvalidRequest
from blatam_kv.signature import BadSignature, Claim, Parts, content_digest, keyed, sign

KEY = bytes(range(32))
BODY = b'{"query":"Informe solar","format":"markdown"}'
URL = "http://bul.example:8002/v1/documents?lang=es"


def vector() -> dict[str, str]:
    return sign(
        "POST",
        URL,
        key_id="key-2026-11",
        key=KEY,
        body=BODY,
        created=1795330000,
        nonce="b64nonce0001",
    )


def parts() -> Parts:
    return Parts(
        method="POST",
        authority="bul.example:8002",
        path="/v1/documents",
        query="?lang=es",
        content_type="application/json",
        content_digest=content_digest(BODY),
    )


def claim() -> Claim:
    headers = vector()
    return Claim.read([headers["Signature-Input"]], [headers["Signature"]])


def test_the_published_vector() -> None:
    headers = vector()
    assert headers["Content-Digest"] == "sha-256=:jmg2aH3/Ni73aX7dYfgciCmDsF3BAGLDl6kHlldgXCo=:"
    assert headers["Signature"] == "sig1=:kDFqJMh7rLzrtu4DVtJ0giQ4AxEq7k7jCcvaYYODSCs=:"
    assert claim().proves(parts(), keyed(KEY))


def test_the_base_is_that_of_rfc_9421_written_out_by_hand() -> None:
    headers = vector()
    params = headers["Signature-Input"].removeprefix("sig1=")
    base = (
        '"@method": POST\n"@authority": bul.example:8002\n"@path": /v1/documents\n'
        '"@query": ?lang=es\n"content-type": application/json\n'
        f'"content-digest": {headers["Content-Digest"]}\n"@signature-params": {params}'
    )
    mac = b64encode(hmac.new(KEY, base.encode(), hashlib.sha256).digest()).decode()
    assert headers["Signature"] == f"sig1=:{mac}:"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"authority": "bul.example"},
        {"path": "/v1/documents/"},
        {"query": "?"},
        {"query": "?lang=en"},
        {"content_type": "text/plain"},
        {"content_digest": content_digest(BODY + b" ")},
    ],
)
def test_no_part_of_the_request_can_be_changed(change: dict[str, str]) -> None:
    assert not claim().proves(parts()._replace(**change), keyed(KEY))


def test_another_key_proves_nothing() -> None:
    assert not claim().proves(parts(), keyed(bytes(32)))


def test_the_authority_is_taken_in_lower_case_and_without_its_usual_port() -> None:
    options = {"key_id": "k", "key": KEY, "created": 1, "nonce": "n" * 8}
    plain = sign("GET", "http://bul.example/x", **options)  # type: ignore[arg-type]
    assert sign("get", "http://BUL.example:80/x", **options) == plain  # type: ignore[arg-type]
    assert sign("GET", "https://bul.example:443/x", **options) == plain  # type: ignore[arg-type]
    assert sign("GET", "http://bul.example:443/x", **options) != plain  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        (r'"@method" "@authority"', '"@authority" "@method"'),
        (r' "content-digest"', ""),
        (r"sig1=", "sig2="),
        (r";created=\d+", ""),
        (r";created=\d+", ";created=-1"),
        (r'alg="hmac-sha256"', 'alg="none"'),
        (r';alg="hmac-sha256"', ""),
        (r'nonce="[^"]*"', 'nonce="short"'),
        (r'nonce="[^"]*"', f'nonce="{"n" * 65}"'),
        (r'tag="blatam-kv-1"', 'tag="other"'),
        (r"$", ";extra=1"),
        (r"$", ', sig2=("@method")'),
        (r"$", "\n"),
        (r"^", " "),
        (r'keyid="[^"]*"', 'keyid="a b"'),
        (r'keyid="[^"]*"', 'keyid=""'),
    ],
)
def test_what_is_not_exactly_the_profile_is_refused(change: tuple[str, str]) -> None:
    headers = vector()
    changed = re.sub(*change, headers["Signature-Input"], count=1)
    assert changed != headers["Signature-Input"]
    with pytest.raises(BadSignature):
        Claim.read([changed], [headers["Signature"]])


@pytest.mark.parametrize(("inputs", "signatures"), [(0, 1), (1, 0), (2, 1), (1, 2), (2, 2)])
def test_there_is_exactly_one_of_each_header(inputs: int, signatures: int) -> None:
    headers = vector()
    with pytest.raises(BadSignature):
        Claim.read([headers["Signature-Input"]] * inputs, [headers["Signature"]] * signatures)


@pytest.mark.parametrize("text", ["sig1=:AAAA:", "sig1=AAAA", "", "sig1=:" + "A" * 44 + ":"])
def test_a_signature_is_32_bytes_in_base64(text: str) -> None:
    with pytest.raises(BadSignature):
        Claim.read([vector()["Signature-Input"]], [text])


def test_a_signature_holds_for_five_minutes_and_not_beyond_its_end() -> None:
    made = claim()
    for offset, good in ((-301, False), (-300, True), (0, True), (300, True), (301, False)):
        assert made.timely(made.created + offset) is good
    ending = made._replace(expires=made.created + 10)
    assert ending.timely(made.created + 10)
    assert not ending.timely(made.created + 11)


def test_expires_is_signed_like_the_rest() -> None:
    headers = vector()
    with_end = headers["Signature-Input"].replace(";keyid", ";expires=1795330100;keyid")
    made = Claim.read([with_end], [headers["Signature"]])
    assert made.expires == 1795330100
    assert not made.proves(parts(), keyed(KEY))


def test_a_signature_without_a_body_says_so() -> None:
    headers = sign("GET", "http://h/x", key_id="k", key=KEY)
    assert set(headers) == {"Signature-Input", "Signature"}
    made = Claim.read([headers["Signature-Input"]], [headers["Signature"]])
    assert not made.with_body
    assert made.proves(Parts(method="GET", authority="h", path="/x", query="?"), keyed(KEY))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_digest_is_of_exactly_these_bytes(one: bytes, other: bytes) -> None:
    value = content_digest(one)
    assert b64decode(value[9:-1]) == hashlib.sha256(one).digest()
    assert (content_digest(other) == value) == (one == other)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"url": "ftp://h/"}, "a URL such as"),
        ({"url": "/query"}, "a URL such as"),
        ({"key": b"short"}, "32 bytes"),
        ({"key_id": 'a"b'}, "cannot be sent"),
        ({"nonce": "x"}, "cannot be sent"),
    ],
)
def test_what_cannot_be_signed_is_refused(options: dict[str, object], hint: str) -> None:
    usual: dict[str, object] = {"url": "http://h/", "key": KEY, "key_id": "k"} | options
    url = usual.pop("url")
    with pytest.raises(InvalidRequest, match=hint):
        sign("GET", url, **usual)  # type: ignore[arg-type]
