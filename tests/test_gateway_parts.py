"""The gateway's parts by themselves: what of a header section travels, when a circuit opens, and
what a configuration means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.errors import ConfigError
from blatam_kv.gateway.breaker import Breaker, State
from blatam_kv.gateway.configuration import DEFAULTS, load
from blatam_kv.gateway.headers import (
    back_through,
    end_to_end,
    forwarded_for,
    hops,
    to_system,
    without_ours,
    without_session,
)

Pairs = list[tuple[bytes, bytes]]

# ---- headers ------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *(b"accept", b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding"),
        *(b"upgrade", b"proxy-authorization", b"x-private", b"x-other", b"via", b"cookie"),
    ]
)
VALUES = st.sampled_from([b"x-private", b"X-Other, close", b"keep-alive", b"a=1; b=2", b""])


def reference_end_to_end(headers: Pairs) -> Pairs:
    """RFC 9110, 7.6.1, word for word."""
    named = {
        word.strip().lower()
        for name, value in headers
        if name == b"connection"
        for word in value.split(b",")
    }
    always = b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization"
    always += b" proxy-authentication-info te trailer transfer-encoding upgrade expect"
    return [
        (name, value)
        for name, value in headers
        if name not in named and name not in always.split() and name != b"http2-settings"
    ]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_what_is_between_neighbours_stays_between_neighbours(headers: Pairs) -> None:
    assert end_to_end(headers) == reference_end_to_end(headers)


def test_order_repetition_and_spelling_of_the_rest_stay() -> None:
    headers = [(b"x-b", b" 1,2"), (b"x-a", b"\xe9"), (b"x-b", b"3"), (b"signature", b"sig1=:AA=:")]
    assert end_to_end(headers) == headers


def test_a_claim_of_a_tenant_is_never_passed_on() -> None:
    headers = [(b"x-tenant", b"acme"), (b"x-tenant-id", b"7"), (b"accept", b"*/*")]
    for believed in (False, True):
        assert to_system(headers, believed=believed) == [(b"accept", b"*/*")]


def test_whom_a_request_is_for_is_believed_of_trusted_proxies_only() -> None:
    headers = [
        (b"x-forwarded-for", b"6.6.6.6"),
        (b"forwarded", b"for=6.6.6.6"),
        (b"x-forwarded-prefix", b"/outer/"),
    ]
    assert to_system(headers, believed=False) == []
    assert to_system(headers, believed=True) == headers
    told = dict(
        forwarded_for(
            headers,
            address="2001:db8::1",
            scheme="https",
            host=b"gate.example",
            taken_off=b"/api/v1/gamma",
        )
    )
    assert told[b"x-forwarded-prefix"] == b"/outer/api/v1/gamma"
    assert told[b"x-forwarded-for"] == b"6.6.6.6, 2001:db8::1"
    assert told[b"forwarded"] == (
        b'for=6.6.6.6, for="[2001:db8::1]";host="gate.example";proto=https'
    )
    assert told[b"x-forwarded-proto"] == b"https"


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ([(b"x-api-key", b"bkv_1"), (b"x-api-key", b"theirs")], [(b"x-api-key", b"theirs")]),
        ([(b"authorization", b"Bearer bkv_1")], []),
        ([(b"authorization", b"bearer  bkv_1")], []),
        ([(b"authorization", b"Bearer eyJ")], [(b"authorization", b"Bearer eyJ")]),
        ([(b"signature", b"x"), (b"signature-input", b"y"), (b"content-digest", b"z")], []),
        ([(b"cookie", b"a=1; blatam_kv_session=s; b=2")], [(b"cookie", b"a=1; b=2")]),
        ([(b"cookie", b"blatam_kv_session=s")], []),
        ([(b"cookie", b"not_blatam_kv_session=s")], [(b"cookie", b"not_blatam_kv_session=s")]),
    ],
)
def test_what_opens_doors_here_is_not_shown_to_other_systems(given_: Pairs, kept: Pairs) -> None:
    assert without_ours(given_) == kept


def test_a_system_cannot_set_the_page_s_cookie_nor_one_for_others() -> None:
    headers = [
        (b"set-cookie", b"blatam_kv_session=evil; Path=/"),
        (b"set-cookie", b"own=1; path=/inner; HttpOnly"),
        (b"set-cookie", b"bare=1"),
    ]
    assert without_session(headers, mount="/api/v1/gamma") == [
        (b"set-cookie", b"own=1; path=/api/v1/gamma/inner; HttpOnly"),
        (b"set-cookie", b"bare=1"),
    ]


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("/x?a=1#b", "/api/v1/gamma/x?a=1#b"),
        ("http://10.0.0.7:8003/x", "/api/v1/gamma/x"),
        ("//10.0.0.7:8003/x", "/api/v1/gamma/x"),
        ("https://10.0.0.7:8003/x", "https://10.0.0.7:8003/x"),
        ("http://elsewhere.example/x", "http://elsewhere.example/x"),
        ("next", "next"),
        ("?page=2", "?page=2"),
        ("mailto:a@b", "mailto:a@b"),
        ("/api/v1/gamma/x", "/api/v1/gamma/x"),
        ("/api/v1/gamma2/x", "/api/v1/gamma/api/v1/gamma2/x"),
    ],
)
def test_a_redirect_into_a_system_leads_through_the_gateway(location: str, seen: str) -> None:
    found = back_through(location.encode(), base="http://10.0.0.7:8003", mount="/api/v1/gamma")
    assert found == seen.encode()


def test_a_redirect_out_of_a_system_s_base_path_stays() -> None:
    base, mount = "http://10.0.0.7:8003/app", "/api/v1/gamma"
    assert back_through(b"/app/x", base=base, mount=mount) == b"/api/v1/gamma/x"
    assert back_through(b"/other/x", base=base, mount=mount) == b"/other/x"


def test_the_names_in_via_are_read_in_order() -> None:
    headers = [(b"via", b"1.1 one, 1.0 two (x)"), (b"x", b"y"), (b"via", b"HTTP/1.1 three, bad")]
    assert hops(headers) == [b"one", b"two", b"three"]


# ---- the circuit --------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tripped(clock: Clock) -> Breaker:
    breaker = Breaker(failures=3, seconds=5, clock=clock)
    for _ in range(3):
        assert breaker.enter() == 0
        breaker.failed()
    return breaker


def test_a_circuit_opens_after_failures_in_a_row_only(clock: Clock) -> None:
    breaker = Breaker(failures=3, seconds=5, clock=clock)
    for _ in range(10):
        for _ in range(2):
            breaker.failed()
        breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert tripped(clock).state is State.OPEN


def test_an_open_circuit_lets_one_try_when_its_time_is_over(clock: Clock) -> None:
    breaker = tripped(clock)
    assert breaker.enter() == 5
    clock.now += 5
    assert breaker.enter() == 0
    assert breaker.state is State.HALF_OPEN
    assert breaker.enter() > 0  # the others wait for what it finds
    breaker.succeeded()
    assert [breaker.enter(), breaker.enter()] == [0, 0]


def test_each_failed_try_doubles_the_wait_to_a_bound(clock: Clock) -> None:
    breaker = tripped(clock)
    waits = []
    for _ in range(7):
        waits.append(breaker.enter())
        clock.now += waits[-1]
        assert breaker.enter() == 0
        breaker.failed()
    assert waits == [5, 10, 20, 40, 80, 80, 80]


def test_a_try_that_says_nothing_leaves_the_next_one_to_try(clock: Clock) -> None:
    breaker = tripped(clock)
    clock.now += 5
    assert breaker.enter() == 0
    breaker.undecided()
    assert breaker.enter() == 0


def test_a_check_that_passed_shortens_the_wait(clock: Clock) -> None:
    breaker = tripped(clock)
    breaker.looks_well()
    assert breaker.enter() == 0


def test_a_check_that_passed_does_not_let_all_wait_for_one_long_answer(clock: Clock) -> None:
    breaker = tripped(clock)
    clock.now += 5
    assert breaker.enter() == 0  # it takes a minute
    assert breaker.enter() > 0
    breaker.looks_well()
    assert [breaker.enter(), breaker.enter()] == [0, 0]
    breaker.failed()
    assert breaker.enter() == 5
    clock.now += 5
    assert breaker.enter() == 0
    breaker.looks_well()
    breaker.succeeded()
    breaker.failed()
    assert breaker.enter() == 0  # what was counted against it is forgotten


def test_requests_from_before_it_opened_do_not_lengthen_the_wait(clock: Clock) -> None:
    breaker = tripped(clock)
    clock.now += 4
    breaker.failed()
    assert breaker.enter() == 1


# ---- the configuration --------------------------------------------------------------------------


def test_without_a_file_there_are_the_original_s_systems_at_their_ports() -> None:
    systems = {each.name: each for each in load(None, {}).systems}
    assert {name: each.url for name, each in systems.items()} == {
        "content-redundancy": "http://127.0.0.1:8001",
        "bul": "http://127.0.0.1:8002",
        "gamma": "http://127.0.0.1:8003",
        "business-agents": "http://127.0.0.1:8004",
        "export-ia": "http://127.0.0.1:8005",
    }
    assert all(each.mount == f"/api/v1/{name}" for name, each in systems.items())
    assert [name for name, each in systems.items() if each.credentials == "keep"] == ["bul"]


def test_the_original_s_variables_say_where_its_systems_are() -> None:
    environ = {
        "GAMMA_APP_ENDPOINT": "http://gamma:9000/",
        "BUL_ENDPOINT": "http://bul:8000",
        "HEALTH_CHECK_INTERVAL": "7",
        "REQUEST_TIMEOUT": "90",
    }
    found = load(None, environ)
    systems = {each.name: each for each in found.systems}
    assert systems["gamma"].url == "http://gamma:9000"
    assert systems["bul"].url == "http://bul:8000"
    assert systems["bul"].credentials == "keep"
    assert found.health_seconds == 7
    assert {each.first_byte_seconds for each in found.systems} == {90}


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_file_names_its_systems_and_keeps_what_it_does_not_say(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"gateway.{kind}"
    document = {
        "defaults": {"idle_seconds": 9},
        "systems": {
            "bul": {"idle_seconds": 8},
            "new-one": {"url": "https://h/base/", "path": "/n"},
        },
    }
    file.write_text(json.dumps(document))
    bul, new = load(file, {}).systems
    assert (bul.url, bul.idle_seconds, bul.strip) == ("http://127.0.0.1:8002", 8, False)
    assert (new.url, new.base, new.mount, new.idle_seconds) == ("https://h/base", "/base", "/n", 9)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("systems: {gamma: {ulr: x}}", "did you mean url?"),
        ("system: {}", "did you mean systems?"),
        ("gateway: {prot: 1}", "did you mean port?"),
        ("systems: {gamma: {url: 'ftp://x'}}", "systems.gamma.url must look like http://"),
        ("systems: {gamma: {url: 'http://u:p@x'}}", "without user"),
        ("systems: {gamma: {url: 'http://x:99999'}}", "must look like"),
        ("systems: {other: {}}", "systems.other needs a url"),
        ("systems: {'a b': {url: 'http://x'}}", "is no name"),
        ("systems: {}", "at least one system"),
        ("systems: [1]", "at least one system"),
        ("[1]", "must hold names and values"),
        ("systems: {gamma: {attempts: 0}}", "whole number from 1 to 10"),
        ("systems: {gamma: {strip: 1}}", "true or false"),
        ("systems: {gamma: {idle_seconds: -1}}", "seconds above 0"),
        ("systems: {gamma: {idle_seconds: .nan}}", "seconds above 0"),
        ("systems: {gamma: {path: /api/v1/gateway}}", "that is the gateway's"),
        ("systems: {gamma: {path: /api/v1}}", "that is the gateway's"),
        ("systems: {gamma: {path: /x/}}", "without a slash at the end"),
        ("systems: {gamma: {path: /x}, bul: {path: /x}}", "has the path of gamma"),
        ("systems: {gamma: {credentials: sign}}", "needs key_id and key_file"),
        ("systems: {gamma: {credentials: kepe}}", "did you mean keep?"),
        ("gateway: {trusted_proxies: [x]}", "networks such as 10.0.0.0/8"),
        ("systems: {gamma: {url: 'http://x/a b'}}", "must look like http://"),
        ("systems: {gamma: {url: 'http://a..b'}}", "must look like http://"),
        ("systems: {gamma: {health: /a b}}", "with %20 for a space"),
        ("{", "not valid YAML"),
        (
            "systems: {gamma: {url: 'http://x'}, gamma: {url: 'http://y'}}",
            "'gamma' is there 2 times",
        ),
        ("gateway: {port: 2026-13-45}", "not valid YAML: month must be"),
        ("gateway: {port: !!timestamp now}", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_fix(
    tmp_path: Path, text: str, hint: str
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert hint in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    for name, value in {"BUL_ENDPOINT": "bul", "HEALTH_CHECK_INTERVAL": "soon"}.items():
        with pytest.raises(ConfigError, match=f"environment variable {name} must"):
            load(None, {name: value})


def test_every_default_is_one_of_the_known_settings() -> None:
    assert load(None, {}).systems[1].name == "bul"
    assert all("url" in said for said in DEFAULTS.values())
