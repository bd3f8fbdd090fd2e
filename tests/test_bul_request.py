"""What is accepted from outside, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.bul.request import QueryRequest, RequestRejected, parse_request


def problems(payload: object) -> dict[str, str]:
    with pytest.raises(RequestRejected) as caught:
        parse_request(payload)
    return {problem.field: problem.detail for problem in caught.value.problems}


def test_a_query_alone_is_enough() -> None:
    request = parse_request({"query": "Plan de negocio"})
    assert (request.query, request.format, request.priority) == ("Plan de negocio", "markdown", 1)
    assert request.language is None
    assert request.seed is None


def test_every_field_is_taken() -> None:
    fields: dict[str, Any] = {
        "query": "q",
        "format": "html",
        "style": "modern",
        "table_of_contents": False,
        "letterhead": False,
        "outline": ["Aims", "Means"],
        "business_area": "legal",
        "document_type": "legal_contract",
        "language": "en",
        "company_name": "Ñandú & Söhne",
        "industry": "i",
        "company_size": "s",
        "target_audience": "t",
        "priority": 4,
        "deadline_seconds": 86_400,
        "max_length": 10_000,
        "temperature": 2,
        "seed": 2**64 - 1,
        "cache": {
            "no-cache": True,
            "no-store": True,
            "ttl": 5,
            "s-maxage": 0,
            "namespace": "a.b:c-d_e",
        },
        "callback_url": "https://example.org/done?x=1",
    }
    assert parse_request(fields).model_dump(by_alias=True) == fields
    assert set(fields) == set(QueryRequest.model_fields)


def test_null_means_not_given() -> None:
    assert parse_request({"query": "q", "language": None, "company_name": None}).language is None


def test_md_is_markdown() -> None:
    assert parse_request({"query": "q", "format": "md"}).format == "markdown"


def test_text_is_trimmed_normalised_and_freed_of_control_characters() -> None:
    request = parse_request({"query": " \tPlan de cafe\u0301\x00\x1b[31m\r\nya\x85 \n"})
    assert request.query == "Plan de café[31m\nya"


@pytest.mark.parametrize(
    "honest",
    [
        "https://example.com/plan",
        "24/7 and/or",
        "the word subprocess",
        "DROP TABLE; <script>",
        "👩‍💻",
    ],
)
def test_honest_text_stays_as_it_is(honest: str) -> None:
    assert parse_request({"query": honest}).query == honest


@pytest.mark.parametrize(
    ("payload", "field", "hint"),
    [
        ({}, "query", "is required"),
        ({"query": ""}, "query", "is empty"),
        ({"query": " \n\x00 "}, "query", "is empty"),
        ({"query": "x" * 10_001}, "query", "10,001 characters; shorten it to 10,000"),
        ({"query": 5}, "query", "valid string, not 5"),
        ({"query": None}, "query", "valid string"),
        ({"query": ["a"]}, "query", "not a list"),
        ({"query": "q", "format": "odt"}, "format", "'odt' is not one of markdown, html"),
        ({"query": "q", "style": "modem"}, "style", "did you mean modern"),
        ({"query": "q", "format": "htlm"}, "format", "did you mean html?"),
        ({"query": "q", "format": None}, "format", "is not one of"),
        ({"query": "q", "language": "fr"}, "language", "is not one of es, en"),
        ({"query": "q", "business_area": "ventas"}, "business_area", "is not one of marketing"),
        ({"query": "q", "document_type": "buisness_plan"}, "document_type", "business_plan?"),
        ({"query": "q", "priority": 5}, "priority", "less than or equal to 4, not 5"),
        ({"query": "q", "priority": -1}, "priority", "greater than or equal to 0"),
        ({"query": "q", "priority": "1"}, "priority", "valid integer, not '1'"),
        ({"query": "q", "priority": True}, "priority", "valid integer"),
        ({"query": "q", "max_length": 0}, "max_length", "greater than or equal to 1"),
        ({"query": "q", "temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"query": "q", "seed": 2**64}, "seed", "less than"),
        ({"query": "q", "company_name": "a\nIndustry: b"}, "company_name", "must be one line"),
        ({"query": "q", "industry": "x" * 201}, "industry", "shorten it to 200"),
        ({"query": "q", "compani_name": "x"}, "compani_name", "did you mean company_name?"),
        ({"query": "q", "zzz": 1}, "zzz", "known fields are query, format"),
        ([], "", "must be an object"),
        ("query", "", "must be an object"),
        (None, "", "must be an object"),
    ],
)
def test_a_bad_field_is_named_with_its_fix(payload: object, field: str, hint: str) -> None:
    assert hint in problems(payload)[field]


def test_all_bad_fields_are_named_at_once() -> None:
    assert set(problems({"query": "", "format": "doc", "x": 1})) == {"query", "format", "x"}


def test_the_longest_query_is_accepted_after_trimming() -> None:
    assert len(parse_request({"query": "  " + "ñ" * 10_000 + "\n"}).query) == 10_000


def test_a_huge_value_is_not_echoed() -> None:
    assert len(problems({"query": "q", "priority": "9" * 100_000})["priority"]) < 200
    assert all(len(text) < 400 for text in problems({"query": "q", "k" * 100_000: 1}).values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON | st.dictionaries(st.sampled_from(sorted(QueryRequest.model_fields)), JSON))
def test_any_json_is_a_request_or_a_list_of_problems(payload: object) -> None:
    try:
        request = parse_request(payload)
    except RequestRejected as error:
        problems = error.problems
    else:
        problems = []
        assert 1 <= len(request.query) <= 10_000
    assert all(problem.detail for problem in problems)
