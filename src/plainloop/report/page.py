"""The frame of every HTML page: one file that needs nothing else, for screens, dark ones, phones and paper.

Text from files goes through `text`, so that no name becomes markup; the page may fetch nothing, and runs no script but
the one that it was made with.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence
from html import escape

from plainloop.errors import printable

# Of curves, in order: told apart by people who see colours differently (Okabe and Ito), for light and for dark screens.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07800", "#2a9fd8", "#7a5cc0", "#666666")
DARK_COLOURS = ("#5ab4f0", "#ff8a4a", "#3fd0a4", "#eaa0cb", "#e0b64a", "#8fd3ff", "#b49cf0", "#aaaaaa")

STYLE = f"""
:root {{ color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #777; --line: #ddd; --shade: #f6f6f6;
  --bad: #a00; --good: #077; {" ".join(f"--c{i}: {colour};" for i, colour in enumerate(COLOURS))} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ddd; --paper: #16181b; --faint: #999;
  --line: #383c42; --shade: #1e2125; --bad: #ff8080; --good: #5fd0c0;
  {" ".join(f"--c{i}: {colour};" for i, colour in enumerate(DARK_COLOURS))} }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: var(--ink); background: var(--paper) }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere }} h2 {{ font-size: 1.15rem; margin-top: 2rem }}
table {{ border-collapse: collapse; margin: .5rem 0 1rem }}
td, th {{ padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }}
th {{ border-bottom: 1px solid var(--line) }} tr:nth-child(even) td {{ background: var(--shade) }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
.wide {{ overflow-x: auto }} .faint {{ color: var(--faint) }}
.bad {{ color: var(--bad) }} .good {{ color: var(--good) }}
code, pre {{ font: 13px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap }}
pre {{ background: var(--shade); padding: .6rem .8rem; border-radius: 4px }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: 1rem 2rem }}
figure {{ margin: 0 }} figcaption {{ font-weight: 600; margin-bottom: .2rem }}
svg {{ width: 100%; height: auto; display: block }} svg text {{ font: 12px system-ui, sans-serif; fill: var(--ink) }}
svg .axis {{ stroke: var(--line) }} svg .tick {{ fill: var(--faint); font-size: 11px }}
svg path, svg polyline {{ fill: none; stroke-width: 1.6; stroke-linejoin: round }}
svg .behind {{ stroke: var(--faint); opacity: .3; stroke-width: 1 }}
.key {{ display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: 13px }}
.key i {{ display: inline-block; width: 1rem; height: .25rem; margin-right: .35rem; vertical-align: middle }}
@media print {{ body {{ margin: 0; max-width: none }} figure, tr {{ break-inside: avoid }} }}
@media (max-width: 30rem) {{ body {{ margin: 1rem auto }} td, th {{ padding-right: .6rem }} }}
"""


def page(title: str, body: str, *, script: str = "") -> str:
    """A whole page. `body` is markup; `script`, if any, is the only one that the browser may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; " if script else ""
    policy = f"default-src 'none'; {allowed}img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            f'<meta http-equiv=Content-Security-Policy content="{policy}">',
            '<meta name=viewport content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{STYLE}</style>",
            f"<h1>{text(title)}</h1>",
            body,
            *([f"<script>{script}</script>"] if script else []),
            "</html>\n",
        ]
    )


def text(value: object) -> str:
    """
    >>> text("<b>\\x1b")
    '&lt;b&gt;\\\\x1b'
    """
    return escape("\n".join(map(printable, str(value).split("\n"))))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] = ()) -> str:
    """Cells are markup; the columns `numbers` are aligned to the right. It scrolls by itself where it is too wide."""
    opened = [" class=n" if column in numbers else "" for column in range(len(head))]
    first = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(opened, head, strict=True))
    lines = ["".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(opened, row, strict=True)) for row in rows]
    return f"<div class=wide><table><tr>{first}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def key(names: Sequence[tuple[str, str]]) -> str:
    """What the colours of a figure stand for: (colour, name)."""
    parts = [f'<span><i style="background:{colour}"></i>{text(name)}</span>' for colour, name in names]
    return f"<div class=key>{''.join(parts)}</div>"


def figure(title: str, drawing: str, below: str = "") -> str:
    return f"<figure><figcaption>{text(title)}</figcaption>{drawing}{below}</figure>"
