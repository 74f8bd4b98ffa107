"""Images whose classes are in a file: `file,label` rows of a CSV, or lines with a path, a space and a label."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from plainloop.contracts import Split
from plainloop.data.loading.layout import is_image, quoted
from plainloop.data.loading.listing import Listing, Listings, remembered
from plainloop.data.text import text_of
from plainloop.errors import BadData, counted

COLUMNS = ("file", "label")
SHOWN = 5  # bad rows in a message


def list_labelled(
    root: str, files: Mapping[Split, str | None], *, val_fraction: float, group_column: str | None = None
) -> Listings:
    """What the files of labels list. Without one for validation, it takes `val_fraction` of each class of train.

    Args:
        group_column: of the file of training labels, whose values become the listing's groups.

    Raises BadData with the lines of bad rows.
    """
    return remembered(_list_files, root, tuple(files.items()), group_column, val_fraction=val_fraction)


def _list_files(
    root: str, base: Path, files: tuple[tuple[Split, str | None], ...], group_column: str | None, *, val_fraction: float
) -> Listings:
    names, found = dict(files), dict[Split, Listing]()
    if names["train"] is None:
        given = next(split for split, name in files if name)
        raise BadData(
            f"data.{given}.labels={names[given]} is given without the labels to train on",
            hint="data.labels=<file> beside it",
        )
    seen: dict[str, str] = {}
    for split, name in files:
        if name:
            key = "data.labels" if split == "train" else f"data.{split}.labels"
            column = group_column if split == "train" else None
            found[split] = read_labels(base, name, key=key, train=found.get("train"), seen=seen, group_column=column)
    train = found["train"]
    if len(train.files) < 2:
        raise BadData(
            f"data.labels: {train.labels_file} has only one label, {train.class_names[0]}; there must be two or more",
            hint="list images of another class too",
        )
    folders = {os.path.dirname(place) for place in seen}
    beside = sum(is_image(n) and os.path.join(place, n) not in seen for place in folders for n in _files_in(place))
    train = replace(
        train, stray=beside, changed=train.changed | {place: os.stat(place).st_mtime_ns for place in folders}
    )
    return Listings(base, train, found.get("val"), found.get("test"), val_fraction)


def read_labels(
    root: Path,
    name: str,
    *,
    key: str,
    train: Listing | None,
    seen: dict[str, str],
    group_column: str | None = None,
) -> Listing:
    """The images that a file lists, as paths from `root`, by class. Reads folders, opens no image.

    Args:
        name: of the file, from `root` or absolute.
        key: of the config that gave it, for messages: data.labels.
        train: whose classes these are. None: the classes follow from the labels, sorted; numbers by their value.
        seen: by whole path, where each file was listed, to which this adds.
        group_column: whose values are the groups of the images. None: there are no groups.

    Raises BadData with the lines of all bad rows.
    """
    path = root / Path(name).expanduser()
    if not path.is_file():
        here = Path(name).absolute()
        hint = f"{key}={here}" if here.is_file() else f"{key}=<a file in {root}, or an absolute path>"
        raise BadData(f"{key}={name}: there is no file {path}; it is looked for in data.root", hint=hint)
    rows, bad, groups = list[tuple[str, str]](), list[str](), dict[str, str]()
    files_in, classes = cache(_files_in), frozenset(train.files if train else ())
    for line, file, label, group in _rows(path, key, group_column):
        place = os.path.normpath(os.path.join(root, file))
        if place in seen:
            problem = f"{file} is in {seen[place]} already"
        elif classes and label and label not in classes:
            problem = f"no training image has the label {label!r}; the labels are {quoted(sorted(classes), 5)}"
        else:
            problem = _problem(file, label, root, files_in)
        if group_column and not problem and not group:
            problem = f"{file} has no {group_column}"
        if problem:
            bad.append(f"line {line}: {problem}")
        else:
            rows.append((file, label))
            groups[file] = group
            seen[place] = f"line {line} of {path.name}"
    if bad or not rows:
        shown = f"has {counted(len(bad), 'bad row')}: " + "; ".join(bad[:SHOWN] + ["..."] * (len(bad) > SHOWN))
        raise BadData(
            f"{key}: {path} {shown if bad else 'lists no images'}",
            hint="each row is a path from data.root and a label; only a first row that says file,label is a header",
        )
    found: dict[str, list[str]] = {name: [] for name in (train.files if train else in_order({row[1] for row in rows}))}
    for file, label in rows:
        found[label].append(file)
    files = {label: sorted(paths) for label, paths in found.items()}
    changed = {str(path): os.stat(path).st_mtime_ns}
    return Listing(root, files, changed=changed, labels_file=path, groups=groups if group_column else None)


def in_order(labels: set[str]) -> list[str]:
    """
    >>> in_order({"10", "9", "0"}), in_order({"dog", "10", "cat"})
    (['0', '9', '10'], ['10', 'cat', 'dog'])
    """
    return sorted(labels, key=int if all(label.isdecimal() for label in labels) else str)


def _rows(path: Path, key: str, group_column: str | None) -> Iterator[tuple[int, str, str, str]]:
    """Line, file, label and group of each row that is not empty. What a row lacks is empty."""
    wanted = (*COLUMNS, *([group_column] if group_column else []))
    try:
        with io.StringIO(text_of(path, f"{key}: {path}"), newline="") as text:
            if path.suffix.lower() not in (".csv", ".tsv"):
                if group_column:
                    raise _no_such_column(path, group_column, [])
                for number, line in enumerate(text, 1):
                    file, _, label = line.strip().replace("\t", " ").rpartition(" ")
                    if line.strip():
                        yield number, file.strip() or label, label if file else "", ""
                return
            first = text.readline()
            text.seek(0)
            reader = csv.reader(text, delimiter=next((mark for mark in ",;\t" if mark in first), ","))
            columns: Sequence[int] = (0, 1)
            for number, cells in enumerate(reader):
                names = [cell.strip().lower() for cell in cells]
                if number == 0 and group_column and not {name.lower() for name in wanted} <= set(names):
                    raise _no_such_column(path, group_column, cells)
                if number == 0 and set(COLUMNS) <= set(names):
                    columns = [names.index(name.lower()) for name in wanted]
                elif any(names):
                    values = [cells[column].strip() if column < len(cells) else "" for column in columns]
                    yield reader.line_num, values[0], values[1], values[2] if group_column else ""
    except csv.Error as error:
        raise BadData(f"{key}: {path} cannot be read as a table ({error})", hint="save it as CSV in UTF-8") from error


def _no_such_column(path: Path, column: str, first_row: Sequence[str]) -> BadData:
    found = f"; its first row is {','.join(first_row)[:200]}" if first_row else ""
    return BadData(
        f"data.group_column={column}: {path} has no such column{found}",
        hint=f"begin a .csv file with a row that names the columns: file,label,{column}",
    )


def _problem(file: str, label: str, root: Path, files_in: Callable[[str], Collection[str]]) -> str:
    """What is wrong with a row; "" if nothing is."""
    if not file or not label:
        return f"{file or label!r} stands alone; expected file,label"
    folder, name = os.path.split(root / file)
    names = files_in(folder)
    if name in names:
        return ""
    alike = [other for other in names if name.lower() in (other.lower(), os.path.splitext(other)[0].lower())]
    return f"{file} is no file in {root}" + (f"; there is {alike[0]}" if alike else "")


def _files_in(folder: str) -> frozenset[str]:
    """Names of the files in a folder, all in one request; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()
