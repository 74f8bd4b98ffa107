"""What a survey of a data set found, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from plainloop.errors import printable
from plainloop.report.data_objects import object_picture
from plainloop.report.data_set import Found, as_text, contradicts, leaks, name_of

ROWS_IN_HTML = 1000  # of a list of files

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } tr:nth-child(even) { background: #f6f6f6 }
meter { width: 12rem } img { display: block; image-rendering: pixelated } pre { overflow: auto }
code { display: block; min-width: min(16rem, 40vw); overflow-wrap: anywhere }
.bad { color: #a00 }
"""


def as_html(found: Found) -> str:
    """Names of files and classes are text: they cannot become markup, and the page may run and fetch nothing."""
    counts, splits = found.counts(), found.splits()
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">',
        f"<title>{_text(found.title)}</title><style>{STYLE}</style><h1>{_text(found.title)}</h1>",
        f"<pre>{_text(chr(10).join(list(as_text(found))[1:]))}</pre>",
    ]
    if set(counts) != {-1}:
        most = max(max(count.values(), default=0) for count in counts.values()) or 1
        rows = [
            [
                _text(name_of(found, label)),
                *(f"{count[split]:,}" for split in splits),
                f'<meter max="{most}" value="{count[splits[0]]}"></meter>',
                _mosaic(found, label),
            ]
            for label, count in counts.items()
        ]
        parts.append(_table("Classes", ["class", *splits, splits[0], "some images"], rows))
    if found.boxed and (picture := object_picture(found.boxed, found.class_names)):
        parts.append(f"<h2>Some images</h2>{_png(picture)}")
    elif found.masked or set(counts) == {-1}:
        parts.append(f"<h2>Some images</h2>{_mosaic(found, -1)}")
    parts.append(_table("Unreadable", ["file", "why"], [[_file(one), _text(one.problem)] for one in found.bad]))
    odd = [[_file(one), _text("; ".join(one.notes))] for one in found.readable if one.notes]
    parts.append(_table("Odd", ["file", "what"], odd))
    equal = [
        ["<br>".join(map(_file, group)), "in several splits" * leaks(group), "with several labels" * contradicts(group)]
        for group in found.duplicates()
    ]
    parts.append(_table("There more than once", ["files", "", ""], equal))
    parts.append(_table("Changed since the earlier survey", [""], [[_text(text)] for text in found.changed]))
    return "\n".join(parts)


def _text(text: str) -> str:
    return escape(printable(text) if "\n" not in text else text)


def _file(one: Any) -> str:
    return f"<code>{_text(one.place)}</code>"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    cells = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[:ROWS_IN_HTML]]
    more = f"<p>and {len(rows) - ROWS_IN_HTML:,} more</p>" if rows[ROWS_IN_HTML:] else ""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<h2>{escape(title)}: {len(rows):,}</h2><table><tr>{names}</tr>{''.join(cells)}</table>{more}"


def _mosaic(found: Found, label: int) -> str:
    """Small pictures of a class in a row, as a PNG inside the page."""
    thumbs = [one.thumb for one in found.looked if one.label == label and one.thumb is not None][:12]
    if not thumbs:
        return ""
    row = np.concatenate([np.repeat(thumb, 3, axis=2) if thumb.shape[2] == 1 else thumb for thumb in thumbs], axis=1)
    return _png(Image.fromarray(row))


def _png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
