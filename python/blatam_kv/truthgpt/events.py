"""Server-sent events: bytes as they arrive in, the data of whole events out.

The rules are those of the HTML standard, section "server-sent events": UTF-8, lines that end in LF,
CR or CRLF, a blank line ends an event, a line that begins with a colon is a comment, several
``data`` lines are joined by LF, and an event that the end of the stream cuts off does not count.
How the bytes were cut into pieces on their way makes no difference.
"""

from __future__ import annotations

import codecs

# A model's answer comes in events of a few hundred bytes; more than this is not one of them.
MAX_EVENT_CHARACTERS = 1 << 20


class EventParser:
    """One stream's parser. Not for several threads."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._data: list[str] = []
        self._held = 0
        self._begun = False
        self._after_cr = False

    def push(self, content: bytes) -> list[str]:
        """Data of the events that ``content`` completes; those without data do not count.

        Raises ValueError when an event grows beyond ``MAX_EVENT_CHARACTERS``.
        """
        text = self._decoder.decode(content)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if text and self._after_cr:
            # The CR ended its line when it came; an LF right after it belongs to it.
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = self._after_cr or text.endswith("\r")
        # Not splitlines(), which also splits at separators that may stand inside JSON strings.
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        lines[0] = self._line + lines[0]
        self._line = lines.pop()
        found = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                found.append("\n".join(self._data))
                self._data, self._held = [], 0
        if self._held + len(self._line) > MAX_EVENT_CHARACTERS:
            raise ValueError(f"an event of more than {MAX_EVENT_CHARACTERS:,} characters")
        return found

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")  # a comment's name is empty
        if name == "data":
            self._data.append(value.removeprefix(" "))
            self._held += len(value) + 1
            if self._held > MAX_EVENT_CHARACTERS:
                raise ValueError(f"an event of more than {MAX_EVENT_CHARACTERS:,} characters")
