"""Requests made at random from the interface's own description: never a 500, never a form undeclared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from bul_fakes import Scripted
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from server_browser import Browser, browsing


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing(Scripted(), max_concurrent_tasks=2) as browser:
        yield browser


CHECKS: Any = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


def test_whatever_is_asked_is_answered_as_described(browser: Browser) -> None:
    described = schemathesis.openapi.from_asgi(
        "/openapi.json", browser.app, headers={"Host": "127.0.0.1"}
    )
    headers = {"X-API-Key": browser.key or "", "Host": "127.0.0.1"}
    asked = set()
    for result in described.get_all_operations():
        operation: Any = result  # or what is wrong with it, which has no such method
        operation = operation.ok()

        @settings(
            max_examples=15,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            for name in ("Authorization", "X-API-Key"):  # ours are good, its own are not
                case.headers.pop(name, None)
            response = case.call(headers=headers)
            assert b"Traceback" not in response.content
            assert response.status_code != 401
            case.validate_response(response, checks=CHECKS)

        ask()
        asked.add(operation.label)
    assert {"POST /query", "POST /v1/chat/completions", "POST /api/batch"} <= asked
