"""Reads the lists of a COCO file entry by entry: the real one has 450 MB, and ten times as much as Python objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plainloop.data.text import content_of, decoded
from plainloop.errors import BadData, counted

LISTS = ("images", "annotations", "categories")
FORM = "a COCO file is one object with the lists images, annotations and categories"
SPACE = re.compile(r"[ \t\r\n]*")
# Most of a file is polygons. Where nobody wants them, they become spaces, which are read four times as fast.
POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[-+.,\seE\d\[\]]*\](?=\s*(?:,\s*"|\}))')


def entries_of(path: Path, where: str, *, with_masks: bool) -> Iterator[tuple[str, Any]]:
    """(name of the list, entry) of each entry of LISTS, and (name, ()) for an empty list. Raises BadData."""
    text = text_of(path, where, with_polygons=with_masks)
    if text[after_space(text, 0) : after_space(text, 0) + 1] == "[":
        what = "detections, the results of a model" if '"score"' in text[:2000] else "a list"
        raise BadData(
            f"{where} holds {what}, and annotations are expected: an object in braces",
            hint=f"{FORM}; give the file that these belong to, such as instances_val2017.json",
        )
    try:
        yield from lists_in(text, where)
    except json.JSONDecodeError as error:
        text = text_of(path, where, with_polygons=True)  # lines are as they were
        line, column = text.count("\n", 0, error.pos) + 1, error.pos - text.rfind("\n", 0, error.pos)
        raise BadData(
            f"{where} is no whole JSON file: {error.msg} in line {line}, column {column}, at {error.pos:,} of "
            f"{counted(len(text), 'character')}",
            hint="it may be half copied: copy or export it again",
        ) from error


def text_of(path: Path, where: str, *, with_polygons: bool) -> str:
    content = bytearray(content_of(path, where))
    if not with_polygons:
        for found in POLYGONS.finditer(content):  # in place: a new text would need as much memory again
            content[slice(*found.span())] = b'"segmentation":0'.ljust(len(found[0]))
    return decoded(content, where)


def lists_in(text: str, where: str) -> Iterator[tuple[str, Any]]:
    """Decodes one entry after the other. Raises JSONDecodeError, and BadData for a list that is none."""
    decode = json.JSONDecoder().raw_decode
    at = expect(text, 0, "{")
    while text[(at := after_space(text, at)) : at + 1] != "}":
        key, at = decode(text, at)
        at = after_space(text, expect(text, at, ":"))
        if key not in LISTS:
            _, at = decode(text, at)
        elif text[at : at + 1] != "[":
            value, _ = decode(text, at)
            raise BadData(f"{where}: {key} is {short(value)}, and a list is expected", hint=FORM)
        else:
            at = after_space(text, at + 1)
            if text[at : at + 1] == "]":
                yield key, ()
            while text[at : at + 1] != "]":
                entry, at = decode(text, at)
                yield key, entry
                at = comma(text, at, "]")
            at += 1
        at = comma(text, at, "}")


def after_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    assert found
    return found.end()


def expect(text: str, at: int, char: str) -> int:
    """The place behind a character, which must come next."""
    at = after_space(text, at)
    if text[at : at + 1] != char:
        raise json.JSONDecodeError(f"Expecting '{char}'", text, at)
    return at + 1


def comma(text: str, at: int, end: str) -> int:
    """The place of the next entry, or of the end."""
    at = after_space(text, at)
    return at if text[at : at + 1] == end else after_space(text, expect(text, at, ","))


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
