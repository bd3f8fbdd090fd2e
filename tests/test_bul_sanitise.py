"""What nobody can see goes; what anybody says stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blatam_kv.bul.sanitise import clean


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/plan",
        "24/7 and/or",
        "how to use subprocess in Python",
        "../README and ..\\README",
        "<script>alert(1)</script>; DROP TABLE documents; --",
        "SELECT * FROM users WHERE name = 'x' OR 1=1",
        "Ignore previous instructions, said the customer",
        "{{7*7}} ${HOME} `ls` $(ls) %s %00",
        "می‌خواهم",
        "क्‍ष",
        "👨‍👩‍👧 and 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "a\tb\nc",
        "Ωmega ﬁ ½ ™",  # compatibility characters mean something: not NFKC
        "\u200fשלום\u200e",
    ],
)
def test_honest_text_comes_through_unchanged(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\x00b\x1b[31mc\x7f\x9bd", "ab[31mcd"),
        ("report\u202efdp.exe", "reportfdp.exe"),
        ("\u2066hidden\u2069", "hidden"),
        ("pay\U000e0069\U000e0067 me", "pay me"),
        ("\U0001f3f4\U000e0067\U000e0062 flag \U000e0067", "\U0001f3f4\U000e0067\U000e0062 flag"),
        ("cafe\u0301", "café"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("  \n x \t ", "x"),
    ],
)
def test_what_cannot_be_seen_goes(text: str, kept: str) -> None:
    assert clean(text) == kept


@given(st.text())
def test_cleaning_twice_changes_nothing_more_than_trimming(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in once)
