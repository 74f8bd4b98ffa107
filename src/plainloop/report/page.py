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

# Of curves, in order, for light and for dark screens.
COLOURS = ("#1f6feb", "#d9730d", "#1a7f4b", "#b0479d", "#a07800", "#2a9fd8", "#7a5cc0", "#626a73")
DARK_COLOURS = ("#6ea8ff", "#f0994a", "#4cc38a", "#e58fd5", "#d8b15c", "#7fcdf5", "#a488dc", "#98a1ab")


def _numbered(colours: Sequence[str]) -> str:
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))


# That of a run's report, for pages that are mostly tables and drawings.
STYLE = f"""
:root {{ color-scheme: light dark; --paper: #fff; --ink: #1c1f23; --soft: #626a73; --rule: #e4e7ea; --panel: #f6f7f8;
  {_numbered(COLOURS)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #14171a; --ink: #e6e8ea; --soft: #98a1ab; --rule: #2a2f35;
  --panel: #1b1f24; {_numbered(DARK_COLOURS)} }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif; font-variant-numeric: tabular-nums }}
main {{ max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px }}
h1, h2, p {{ margin: 0 }} h2 {{ font-size: 20px; font-weight: 600; letter-spacing: -.01em; margin-bottom: 6px }}
h1 {{ font-size: 20px; font-weight: 400; display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px }}
h1 .value {{ font-size: 56px; font-weight: 600; letter-spacing: -.02em; line-height: 1.15 }}
section {{ margin-top: 56px }} .path {{ overflow-wrap: anywhere }} .quiet {{ font-size: 14px }}
.path, .quiet, h1 .what, th {{ color: var(--soft) }}
code, pre {{ font: 13.5px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace }}
pre {{ background: var(--panel); padding: 12px 16px; border-radius: 8px; white-space: pre-wrap; margin: 20px 0;
  overflow-wrap: anywhere }}
table {{ border-collapse: collapse; font-size: 14px; width: 100% }} th {{ font-weight: 400; font-size: 13px }}
th, td {{ padding: 5px 18px 5px 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top }}
.n {{ text-align: right; white-space: nowrap }} .scroll {{ overflow-x: auto }}
.figures {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 36px 40px; margin-top: 24px }}
figure {{ margin: 0; min-width: 0 }} figcaption {{ font-size: 14px; font-weight: 600; margin-bottom: 4px }}
svg {{ width: 100%; height: auto; display: block }} svg text {{ font-size: 12px; fill: var(--ink) }}
svg .axis {{ stroke: var(--rule) }} svg .tick {{ fill: var(--soft); font-size: 11px }}
svg path, svg polyline {{ fill: none; stroke-width: 1.8; stroke-linejoin: round; vector-effect: non-scaling-stroke }}
svg .behind {{ stroke: var(--soft); opacity: .3; stroke-width: 1 }}
svg polyline:hover {{ stroke-width: 4; opacity: 1 }}
.key {{ display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; color: var(--soft) }}
.key i {{ display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle }}
@media (max-width: 720px) {{ main {{ padding: 24px 16px 48px }} section {{ margin-top: 44px }}
  h1 .value {{ font-size: 44px }} .figures {{ grid-template-columns: minmax(0, 1fr) }}
  svg text, svg .tick {{ font-size: 13px }} }}
@media print {{ main {{ max-width: none; padding: 0 }} figure, tr {{ break-inside: avoid }} }}
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
            f"<main>{body}</main>",
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
    return f"<div class=scroll><table><tr>{first}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def key(names: Sequence[tuple[str, str]]) -> str:
    """What the colours of a figure stand for: (colour, name)."""
    parts = [f'<span><i style="background:{colour}"></i>{text(name)}</span>' for colour, name in names]
    return f"<div class=key>{''.join(parts)}</div>"


def figure(title: str, drawing: str, below: str = "") -> str:
    return f"<figure><figcaption>{text(title)}</figcaption>{drawing}{below}</figure>"
