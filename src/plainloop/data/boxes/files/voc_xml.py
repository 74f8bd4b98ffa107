"""What one XML file in Pascal VOC's form says."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from plainloop.data.text import content_of, decoded
from plainloop.errors import BadData

Object = tuple[str, tuple[float, ...], bool]  # name, x0 y0 x1 y1, difficult
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# The parser knows no Chinese encodings, and Python does.
DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.-]+)["'][^>]*\?>""")


def read_xml(path: Path, where: str) -> tuple[tuple[int, int], list[Object]]:
    """Height and width, 0 if not said; and of each object its name, x0 y0 x1 y1, and whether it is difficult."""
    try:
        root = ElementTree.fromstring(xml_text(content_of(path, where), where))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise BadData(
            f"{where} is no whole XML file: {str(error).partition(':')[0]} in line {line}, column {column + 1}",
            hint="it may be half copied: copy or export it again",
        ) from error
    if root.tag != "annotation":
        raise BadData(
            f"{where} begins with <{root.tag}>, and Pascal VOC's files begin with <annotation>",
            hint="export the annotations as Pascal VOC, or move this file out of the folder",
        )
    size = (int(number(root, "size/height", where, 0)), int(number(root, "size/width", where, 0)))
    if min(size) < 0 or max(size) >= 2**31:
        raise BadData(f"{where} has the size {size[1]} x {size[0]}", hint="mend <size>, or take it out")
    objects: list[Object] = []
    for count, entry in enumerate(root.iter("object"), 1):
        name, place = (entry.findtext("name") or "").strip(), f"{where}, object {count}"
        if not name:
            raise BadData(f"{place} has no <name>", hint="write the name of its class into it")
        x0, y0, x1, y1 = (number(entry, f"bndbox/{corner}", f"{place} ({name})") for corner in CORNERS)
        objects.append((name, (x0 - 1, y0 - 1, x1, y1), number(entry, "difficult", place, 0) != 0))
    return size, objects


def number(entry: ElementTree.Element, tag: str, where: str, missing: float | None = None) -> float:
    text = entry.findtext(tag)
    if text is None or not text.strip():
        if missing is not None:
            return missing
        raise BadData(f"{where} has no <{tag.rpartition('/')[2]}>", hint=f"a box has {', '.join(CORNERS)} in <bndbox>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadData(
            f"{where}: <{tag.rpartition('/')[2]}> is {text.strip()!r}, and a number is expected",
            hint="mend this object, or take it out",
        )
    return value


def xml_text(content: bytes, where: str) -> str:
    """In the encoding that it declares. Raises BadData."""
    found = DECLARED.match(content)
    if not found or found[1].lower() in (b"utf-8", b"utf-16", b"us-ascii"):
        return decoded(content, where)
    name = found[1].decode()
    try:
        return content[found.end() :].decode(name)
    except (LookupError, UnicodeError) as error:
        raise BadData(
            f"{where} says that its text is encoded as {name}, and it cannot be read so ({error})",
            hint='save it as UTF-8, and write encoding="utf-8" into its first line',
        ) from error
