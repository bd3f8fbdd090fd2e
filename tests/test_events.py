"""Server-sent events, against twenty obvious lines, over every way to cut a stream into pieces."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blatam_kv.truthgpt.events import MAX_EVENT_CHARACTERS, EventParser


def reference(stream: bytes) -> list[str]:
    """The standard read aloud, for a stream that is all there."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    found: list[str] = []
    data: list[str] = []
    *lines, _ = re.split("\r\n|\n|\r", text)  # what follows the last line end is no line
    for line in lines:
        if line == "":
            if data:
                found.append("\n".join(data))
            data = []
        elif line.startswith(":"):
            continue
        else:
            name, _, value = line.partition(":")
            if name == "data":
                data.append(value[1:] if value.startswith(" ") else value)
    return found


def parsed(stream: bytes, cuts: list[int]) -> list[str]:
    parser, found, start = EventParser(), [], 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        found += parser.push(stream[start:cut])
        start = cut
    return found


WORDS = st.sampled_from(
    ["data", "data:", "data: ", "data:  two", ":", ": ping", "event: x", "id", "retry: 9", "\n",
     "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "ñ", "🥐", "\ufeff", "\u2028", "\x85", "x", "[DONE]"]
)  # fmt: skip
STREAMS = st.lists(WORDS.map(str.encode) | st.binary(max_size=3), max_size=24).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 200), max_size=12))
@example(b"data: a\r\n\r\ndata: b\r\r\ndata: c\n\n", list(range(40)))
@example("\ufeffdata: 🥐\ndata:\n\n: no\n\n".encode(), list(range(40)))
def test_every_cutting_gives_what_the_standard_says(stream: bytes, cuts: list[int]) -> None:
    assert parsed(stream, cuts) == reference(stream)


@given(STREAMS)
def test_byte_by_byte_is_the_same_as_all_at_once(stream: bytes) -> None:
    assert parsed(stream, list(range(len(stream)))) == parsed(stream, [])


@pytest.mark.parametrize("line", [b"data: " + b"x" * 100 + b"\n", b"x" * 100, b": " + b"x" * 98])
def test_an_event_without_end_is_an_error_before_it_fills_the_memory(line: bytes) -> None:
    parser = EventParser()

    def push_for_ever() -> None:
        for _ in range(MAX_EVENT_CHARACTERS // 50):
            parser.push(line)

    with pytest.raises(ValueError, match="more than 1,048,576"):
        push_for_ever()
