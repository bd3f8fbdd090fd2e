"""A document as text to read in a terminal or an e-mail: no markup, lines of 78 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from blatam_kv.bul.markdown import parse

if TYPE_CHECKING:
    from markdown_it.tree import SyntaxTreeNode

    from blatam_kv.bul.document import Document

WIDTH = 78
_UNDERLINES = {1: "=", 2: "-"}


def plaintext(document: Document) -> str:
    """The whole text. Nesting is bounded by the parser, and so is the recursion here."""
    from markdown_it.tree import SyntaxTreeNode

    root = SyntaxTreeNode(parse(document.markdown))
    return "\n".join(_blocks(root.children, WIDTH)) + "\n"


def _blocks(nodes: Iterable[SyntaxTreeNode], width: int, *, apart: bool = True) -> list[str]:
    """Lines of several blocks, with an empty line between two if they stand apart."""
    lines: list[str] = []
    for node in nodes:
        if lines and apart:
            lines.append("")
        lines.extend(_block(node, width))
    return lines


def _block(node: SyntaxTreeNode, width: int) -> list[str]:
    match node.type:
        case "heading":
            lines = _wrap(_inline(node), width)
            underline = _UNDERLINES.get(int(node.tag[1:]))
            return [*lines, underline * max(map(len, lines))] if underline and lines else lines
        case "bullet_list" | "ordered_list":
            return _items(node, width)
        case "blockquote":
            return [f"> {line}".rstrip() for line in _blocks(node.children, max(width - 2, 20))]
        case "fence" | "code_block":
            return [f"    {line}".rstrip() for line in node.content.rstrip("\n").split("\n")]
        case "hr":
            return ["-" * width]
        case "table":
            return _table(node)
        case _:
            return _wrap(_inline(node), width)


def _items(node: SyntaxTreeNode, width: int) -> list[str]:
    number = int(node.attrs.get("start", 1))
    lines: list[str] = []
    for item in node.children:
        mark = "- " if node.type == "bullet_list" else f"{number}. "
        number += 1
        body = _blocks(item.children, max(width - len(mark), 20), apart=False) or [""]
        lines.append((mark + body[0]).rstrip())
        lines.extend((" " * len(mark) + line).rstrip() for line in body[1:])
    return lines


def _table(node: SyntaxTreeNode) -> list[str]:
    rows = [[_inline(cell).replace("\n", " ") for cell in row.children] for row in _rows(node)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [text[0], "  ".join("-" * width for width in widths), *text[1:]]


def _rows(table: SyntaxTreeNode) -> list[SyntaxTreeNode]:
    return [row for part in table.children for row in part.children]


def _inline(node: SyntaxTreeNode) -> str:
    """The words of a node; a link shows its address unless that is already its text."""
    match node.type:
        case "text" | "code_inline":
            return str(node.content)
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case "link":
            words = "".join(map(_inline, node.children))
            address = str(node.attrs.get("href", ""))
            return words if address in (words, f"mailto:{words}", "") else f"{words} ({address})"
        case _:
            return "".join(map(_inline, node.children))


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; a longer word stays whole, so an address can be used."""
    lines: list[str] = []
    for line in text.split("\n"):
        wrapped = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
        lines.extend(wrapped or [""])
    return lines
