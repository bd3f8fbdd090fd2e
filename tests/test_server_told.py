"""What every answer tells besides its body: limits, stages, the interface's version, what is outdated."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from bul_fakes import Scripted
from server_browser import browsing
from test_server_gate import site

from blatam_kv.bul.security.limits import Verdict
from blatam_kv.server.limited import limit_fields, violated
from blatam_kv.server.outdated import Outdated

CHAT = {"messages": [{"role": "user", "content": "bread"}]}


def test_every_answer_within_a_limit_tells_what_is_left_errors_too() -> None:
    with site(limit=4) as bul:
        bul.browser.key = bul.keys.create("acme").api_key
        for left, (path, body, status) in enumerate(
            [
                ("/query", {"query": "bread"}, 202),
                ("/query", {"query": ""}, 422),
                ("/v1/chat/completions", CHAT | {"temperature": 9}, 400),
            ]
        ):
            response = bul.browser.post(path, json=body)
            assert response.status_code == status
            assert response.headers["ratelimit-policy"] == '"write";q=4;w=60'
            assert response.headers["ratelimit"].startswith(f'"write";r={3 - left};t=')
        assert bul.browser.get("/tasks/nope/status").headers["ratelimit"].startswith('"read";r=3')
        compatible = bul.browser.post("/v1/completions", json={"prompt": "x"})
        assert compatible.headers["x-ratelimit-limit-requests"] == "4"
        assert compatible.headers["x-ratelimit-remaining-requests"] == "0"
        assert compatible.headers["x-ratelimit-reset-requests"] == "1m0s"


def test_one_too_many_says_which_limit_and_never_calls_back_too_early() -> None:
    with site(limit=1) as bul:
        bul.browser.key = bul.keys.create("acme").api_key
        bul.browser.get("/tasks")
        refused = bul.browser.get("/tasks")
        assert refused.status_code == 429
        body = refused.json()
        assert body["violated-policies"] == ["read"]
        assert body["type"].endswith("#quota-exceeded")
        found = re.fullmatch(r'"read";r=0;t=(\d+)', refused.headers["ratelimit"])
        assert found
        assert int(refused.headers["retry-after"]) >= int(found[1]) > 0
        bul.browser.get("/v1/models")
        compatible = bul.browser.get("/v1/models")
        assert compatible.status_code == 429
        assert compatible.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    ("reset", "text"), [(0, b"0s"), (59.1, b"1m0s"), (61, b"1m1s"), (7, b"7s")]
)
def test_openais_clients_read_when_all_is_there_again(reset: float, text: bytes) -> None:
    pairs = dict(limit_fields("/v1/models", Verdict(True, 9, 3, 0.0, reset), "read", 60.0))
    assert pairs[b"x-ratelimit-reset-requests"] == text


def test_nothing_is_said_of_openais_names_elsewhere() -> None:
    told = violated("/query", Verdict(False, 9, 0, 1.5, 60), "write", 60.0)
    assert told == {"ratelimit-policy": '"write";q=9;w=60', "ratelimit": '"write";r=0;t=2'}


def test_stages_are_timed_and_the_interface_has_a_version() -> None:
    with browsing(Scripted()) as browser:
        response = browser.ask(query="bread")
        number = r"\d+\.\d{3}"
        pattern = f"auth;dur={number}, read;dur={number}, answer;dur={number}"
        assert re.fullmatch(pattern, response.headers["server-timing"])
        for path in ("/healthz", "/nowhere", "/tasks"):
            assert browser.get(path).headers["api-version"] == "1"


def test_an_outdated_path_says_since_when_until_when_and_what_to_call() -> None:
    since = datetime(2026, 11, 25, tzinfo=UTC)
    pairs = dict(Outdated(since=since, until=since + timedelta(days=1), successor="/query").pairs)
    assert pairs == {
        b"deprecation": b"@1795564800",
        b"sunset": b"Thu, 26 Nov 2026 00:00:00 GMT",
        b"link": b'</query>; rel="successor-version"',
    }
    assert b"sunset" not in dict(Outdated(since=since, successor="/x").pairs)
    with pytest.raises(ValueError, match="after"):
        Outdated(since=since, until=since, successor="/x")


def test_the_originals_paths_work_and_are_called_outdated() -> None:
    with browsing(Scripted()) as browser:
        for path in ("/api/query", "/documents/generate"):
            response = browser.post(path, json={"query": f"bread {path}"})
            assert response.status_code == 202
            assert response.headers["deprecation"].startswith("@")
            assert response.headers["link"] == '</query>; rel="successor-version"'
        stats = browser.get("/api/stats")
        assert stats.json()["total_tasks"] >= 0
        assert stats.headers["sunset"].endswith("GMT")
        assert "deprecation" not in browser.get("/stats").headers
        refused = browser.post("/api/query", json={"query": ""})
        assert refused.status_code == 422
        assert "deprecation" in refused.headers
