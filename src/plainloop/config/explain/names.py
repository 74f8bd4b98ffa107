"""The nearest of the names that exist, for a name that does not."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, names: Iterable[str], *, count: int = 3) -> list[str]:
    """Names within an edit per three letters (one at least), the closest first.

    >>> nearest("optimizer.l", ["optimizer.lr", "trainer.duration", "model.depth"])
    ['optimizer.lr']
    >>> nearest("resent18", ["resnet18", "resnet50"]), nearest("cat", ["optimizer"])
    (['resnet18'], [])
    """
    limit = max(1, len(word) // 3)
    close = []
    for name in names:
        if abs(len(name) - len(word)) <= limit:
            found = distance(word.lower(), name.lower(), limit)
            if found <= limit:
                close.append((found, _unlike_start(word, name), name))
    return [name for *_, name in sorted(close)[:count]]


def nearest_key(key: str, keys: Iterable[str], *, count: int = 3) -> list[str]:
    """The same for dotted keys: spelled alike, or with the same last part elsewhere.

    >>> nearest_key("optimiser.lr", ["optimizer.lr", "scheduler.min_lr"])
    ['optimizer.lr']
    >>> nearest_key("batch_size", ["data.batch_size", "trainer.lr_scaling.base_batch_size"])
    ['data.batch_size']
    """
    keys = list(keys)
    parent, _, last = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in keys if other.rpartition(".")[0] == parent}
    one_edit = [other for other in keys if abs(len(other) - len(key)) <= 1 and distance(key, other, 1) == 1]
    found = sorted(one_edit, key=lambda other: (other not in siblings.values(), _unlike_start(key, other)))
    found += sorted((k for k in keys if k.rpartition(".")[2] == last), key=lambda k: (k.count("."), k))
    found += [siblings[name] for name in nearest(last, siblings, count=count)]
    found = list(dict.fromkeys(found))[:count]
    return found if len(found) == count else list(dict.fromkeys([*found, *alike(key, keys)]))[:count]


def alike(key: str, keys: Iterable[str]) -> list[str]:
    """Keys whose unlike parts are spelled alike: what all keys of a group share makes none of them nearer."""
    close = []
    for other in keys:
        mine, theirs = _unlike_parts(key, other)
        limit = max(1, len(mine) // 3)
        if abs(len(mine) - len(theirs)) <= limit and (found := distance(mine, theirs, limit)) <= limit:
            close.append((found, _unlike_start(key, other), other))
    return [other for *_, other in sorted(close)]


def _unlike_parts(key: str, other: str) -> tuple[str, str]:
    """
    >>> _unlike_parts("optimiser.lr", "optimizer.lr"), _unlike_parts("a.b.at", "a.b")
    (('optimiser', 'optimizer'), ('at', ''))
    """
    a, b = key.split("."), other.split(".")
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return ".".join(a), ".".join(b)


def distance(a: str, b: str, limit: int) -> int:
    """Edits between two words: letters put in, left out, changed or swapped; beyond `limit` any larger number.

    >>> distance("adamw", "admaw", 3), distance("sgd", "sgdd", 3), distance("abc", "xyz", 1)
    (1, 1, 2)
    """
    before, above = list[int](), list(range(len(b) + 1))  # the two rows above the one being filled
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        if min(row) > limit and min(above) > limit:
            return limit + 1
        before, above = above, row
    return above[-1]


def _unlike_start(word: str, name: str) -> int:
    """Typos rarely fall on the first letters: of equally distant names the one that starts alike comes first."""
    return next((-i for i, (x, y) in enumerate(zip(word, name, strict=False)) if x != y), -min(len(word), len(name)))
