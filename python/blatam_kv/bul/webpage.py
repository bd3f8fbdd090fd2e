"""A document as one self-contained HTML page that reads well on screen and on paper."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from blatam_kv.bul.markdown import to_html
from blatam_kv.errors import MissingExtra

if TYPE_CHECKING:
    from blatam_kv.bul.document import Document

_BLOCKS = "h1 h2 h3 h4 h5 h6 p ul ol li pre blockquote hr table thead tbody tr th td"
_INLINE = "strong em code br a"

_STYLE = """\
body { max-width: 42rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff;
  font: 1rem/1.6 Georgia, "Times New Roman", serif; overflow-wrap: break-word; }
h1, h2, h3, h4, h5, h6 { font-family: system-ui, sans-serif; line-height: 1.25;
  break-after: avoid; }
h1 { border-bottom: 2px solid #1a1a1a; padding-bottom: .3rem; }
table { border-collapse: collapse; width: 100%; break-inside: avoid; }
th, td { border: 1px solid #999; padding: .3rem .6rem; text-align: left; }
blockquote { margin-left: 0; padding-left: 1rem; border-left: 3px solid #999; }
pre { white-space: pre-wrap; }
@page { margin: 2cm; }
@media print { body { max-width: none; margin: 0; padding: 0; } a { color: inherit; } }
"""


def webpage(document: Document) -> str:
    """The whole page. The body passes through nh3, whatever the Markdown renderer let through."""
    try:
        import nh3
    except ImportError as error:
        raise MissingExtra("nh3", extra="documents") from error
    body = nh3.clean(
        to_html(document.markdown),
        tags={*_BLOCKS.split(), *_INLINE.split()},
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="{escape(document.language)}">\n'
        "<head>\n"
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(document.title)}</title>\n"
        f"<style>\n{_STYLE}</style>\n"
        "</head>\n"
        f"<body>\n<main>\n{body.strip()}\n</main>\n</body>\n"
        "</html>\n"
    )
