"""How Markdown is read here: CommonMark and tables, nothing raw, nothing fetched."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from blatam_kv.errors import MissingExtra

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


@cache
def _parser() -> MarkdownIt:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise MissingExtra("markdown-it-py", extra="documents") from error
    # Raw HTML stays text. Images too: opening a document must not call a stranger's server.
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def parse(markdown: str) -> list[Token]:
    """The block tokens; an inline token follows the opening of each block that has text."""
    return _parser().parse(markdown)


def to_html(markdown: str) -> str:
    """The HTML of the body, not yet sanitised."""
    rendered: str = _parser().render(markdown)
    return rendered


def plain_text(inline: Token) -> str:
    """The words of an inline token on one line, markup removed."""
    breaks = ("softbreak", "hardbreak")
    parts = [" " if child.type in breaks else child.content for child in inline.children or []]
    return " ".join("".join(parts).split())
