"""The five styles for browsers: one sheet each, for screens and for printing."""

from __future__ import annotations

from functools import cache

from blatam_kv.documents.styles import STYLES, Style

_COMMON = """\
body {{ margin: 0 auto; max-width: 46rem; padding: 2.5rem 1.25rem 4rem; background: #fff;
  color: {ink}; font: {size}rem/1.6 {body}; overflow-wrap: break-word; }}
h1, h2, h3, h4, h5, h6 {{ font-family: {display}; line-height: 1.25; break-after: avoid; }}
h1 {{ font-size: {title}rem; margin: .3rem 0 .8rem; color: {accent}; }}
h2 {{ font-size: 1.42em; margin: 2.1em 0 .6em; color: {accent}; }}
h3 {{ font-size: 1.14em; margin: 1.7em 0 .5em; }}
h4, h5, h6 {{ font-size: 1em; margin: 1.5em 0 .5em; color: {soft}; }}
p, ul, ol {{ margin: 0 0 .9em; }}
li {{ margin: .3em 0; }}
li::marker {{ color: {accent}; }}
a {{ color: {accent}; }}
.kind {{ margin: 0; color: {accent}; font: 600 .75rem/1.4 {sans}; letter-spacing: .09em;
  text-transform: uppercase; }}
.facts {{ margin: 0 0 2.2rem; color: {soft}; font-size: .9em; white-space: pre-wrap; }}
.letterhead {{ display: flex; align-items: center; justify-content: space-between; gap: 2rem;
  margin-bottom: 2.5rem; color: {soft}; font-size: .8rem; line-height: 1.45; }}
.letterhead img {{ max-height: 3.2rem; max-width: 12rem; }}
.letterhead p {{ margin: 0 0 0 auto; text-align: end; }}
nav {{ margin: 0 0 2.2rem; padding: 1rem 1.3rem; background: {tint}; }}
nav ul {{ list-style: none; margin: 0; padding: 0; }}
nav .level2 {{ padding-inline-start: 1.3rem; font-size: .93em; }}
nav a {{ text-decoration: none; }}
table {{ border-collapse: collapse; width: 100%; margin: 1.3em 0 1.6em; font-size: .93em;
  break-inside: avoid; }}
table.wide {{ display: block; overflow-x: auto; font-size: .8em; }}
th, td {{ padding: .45em .7em; text-align: start; vertical-align: top; }}
th {{ font-weight: 600; }}
.right {{ text-align: end; font-variant-numeric: tabular-nums; }}
.center {{ text-align: center; }}
aside {{ margin: 1.4em 0; padding: .9em 1.2em; --hue: {accent}; background: {tint}; }}
aside.tip {{ --hue: #2f7d4f; }}
aside.warning {{ --hue: #9a5f00; }}
aside.caution {{ --hue: #b3261e; }}
aside > p:first-child {{ margin: 0 0 .35em; color: var(--hue); font: 600 .75rem/1.4 {sans};
  letter-spacing: .09em; text-transform: uppercase; }}
aside > :last-child {{ margin-bottom: 0; }}
blockquote {{ margin: 1.2em 0; padding-inline-start: 1.1em;
  border-inline-start: 2px solid {line}; color: {soft}; font-style: italic; }}
code {{ padding: .1em .3em; background: {tint}; font-family: Consolas, "DejaVu Sans Mono", monospace;
  font-size: .9em; }}
pre {{ padding: 1em 1.2em; background: {tint}; white-space: pre-wrap; }}
pre code {{ padding: 0; }}
hr {{ border: 0; border-top: 1px solid {line}; margin: 2em 0; }}
"""
_PRINT = """\
@page {{ size: A4; margin: {margins}; }}
@media print {{ body {{ max-width: none; padding: 0; }} a {{ color: inherit; }} }}
"""
_TITLES = {
    "rule": "main > header {{ border-bottom: 3px solid {accent}; margin-bottom: 2rem; }}\n"
    ".facts {{ margin-bottom: 1rem; }}\n",
    "band": "main > header {{ background: {accent}; color: #fff; padding: 2.2rem 2rem 1.6rem;"
    " margin: 0 -2rem 2.4rem; border-radius: .4rem; print-color-adjust: exact; }}\n"
    "h1, .kind, .facts {{ color: #fff; }}\n.facts {{ margin: 0; }}\n"
    "h2 {{ color: {ink}; }}\nh2::after {{ content: ''; display: block; width: 2.2rem;"
    " margin-top: .35rem; border-top: 3px solid {accent}; }}\nh3 {{ color: {accent}; }}\n"
    "nav, pre, aside {{ border-radius: .4rem; }}\n",
    "plain": "body {{ max-width: 40rem; }}\nh1, h2 {{ color: {ink}; }}\n"
    "h2 {{ font-size: 1.2em; }}\nh3 {{ color: {soft}; }}\n"
    ".kind {{ letter-spacing: 0; text-transform: none; font-weight: 400; color: {soft}; }}\n"
    "main > header {{ border-bottom: 1px solid {ink}; margin-bottom: 2.4rem; }}\n"
    "nav {{ background: none; padding: 0; }}\n",
    "cover": "main > header {{ border-inline-start: 5px solid {accent}; padding: 1rem 0 1rem 2rem;"
    " margin: 4rem 0 5rem; }}\nh1 {{ color: {ink}; }}\n.facts {{ margin: 0; }}\n"
    "h2 {{ border-bottom: 1px solid {line}; padding-bottom: .3rem; }}\n",
    "stripe": "body {{ border-inline-start: 1.1rem solid {accent};"
    " border-image: linear-gradient({accent}, #e8623f) 1; padding-inline-start: 2.4rem; }}\n"
    ".kind {{ display: inline-block; padding: .35rem .9rem; border-radius: 2rem; color: #fff;"
    " background: {accent}; print-color-adjust: exact; }}\n"
    "h2::after {{ content: ''; display: block; width: 3.4rem; margin-top: .3rem;"
    " border-top: 4px solid #e8623f; border-radius: 2px; }}\n"
    "li::marker {{ color: #e8623f; }}\nnav, pre, aside {{ border-radius: .8rem; }}\n",
}
_TABLES = {
    "lines": "table {{ border-top: 2px solid {accent}; border-bottom: 2px solid {accent}; }}\n"
    "thead {{ background: {tint}; border-bottom: 1px solid {accent}; }}\n"
    "tbody tr + tr {{ border-top: 1px solid {line}; }}\n",
    "filled": "thead {{ background: {accent}; color: #fff; print-color-adjust: exact; }}\n"
    "tbody tr:nth-child(even) {{ background: {tint}; }}\n"
    "tr {{ border-bottom: 1px solid {line}; }}\n",
    "hairlines": "thead {{ border-bottom: 1px solid {ink}; }}\n"
    "tbody tr {{ border-bottom: 1px solid {line}; }}\nth, td {{ padding-inline: .2em; }}\n",
    "grid": "thead {{ background: {accent}; color: #fff; print-color-adjust: exact; }}\n"
    "th, td {{ border: 1px solid {line}; }}\n",
    "rows": "table {{ border-collapse: separate; border-spacing: 0 3px; }}\n"
    "thead {{ background: #e4e0f7; }}\ntbody tr {{ background: {tint}; }}\n",
}
_CALLOUTS = {
    "bar": "aside {{ border-inline-start: 4px solid var(--hue); }}\n",
    "box": "",
    "hairline": "aside {{ background: none; padding-inline: 0; border: solid {ink};"
    " border-width: 1px 0; }}\n",
    "frame": "aside {{ background: none; border: 1px solid var(--hue); }}\n",
    "tint": "",
}


@cache
def stylesheet(name: str) -> str:
    """The sheet of a style."""
    style = STYLES[name]
    sheet = _COMMON + _TITLES[style.title] + _TABLES[style.table] + _CALLOUTS[style.callout]
    if style.numbered:
        sheet += (
            "main {{ counter-reset: h2; }}\nh2 {{ counter-increment: h2; counter-reset: h3; }}\n"
            "h2::before {{ content: counter(h2) '  '; white-space: pre; }}\n"
            "h3 {{ counter-increment: h3; }}\n"
            "h3::before {{ content: counter(h2) '.' counter(h3) '  '; white-space: pre; }}\n"
        )
    return (sheet + _PRINT).format(**_values(style))


def _values(style: Style) -> dict[str, str]:
    return {
        "ink": style.ink,
        "soft": style.soft,
        "accent": style.accent,
        "tint": style.tint,
        "line": style.line,
        "body": style.body[2],
        "display": style.display[2],
        "sans": '"Segoe UI", Inter, system-ui, sans-serif',
        "size": f"{1.0 if style.body[0] == 'Inter' else 1.08:g}",
        "title": f"{style.title_size / 12:.2f}",
        "margins": " ".join(f"{margin:g}cm" for margin in style.margins),
    }
