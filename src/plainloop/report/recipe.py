"""A recipe's published number, what runs of it measured, and the card that holds one against the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from plainloop.errors import BadConfig
from plainloop.report.sweep.effects import interval

KEYS: dict[str, tuple[Any, str]] = {
    "source": (str, "text"),
    "metric": (str, "a metric, as val/top1"),
    "of": (str, "best or last"),
    "tolerance": (int | float, "a number"),
    "rows": (list, "a list of {overrides: ..., value: ...}"),
}
OF = {"best": "the best of all evaluations", "last": "of the last evaluation"}


@dataclass(frozen=True)
class Published:
    """One number of a source.

    Args:
        metric: as in summary.json, the higher the better: val/top1.
        of: "best" of all evaluations, or of the "last" one.
        tolerance: how far below the number a mean may lie and still count as reproduced.
        overrides: what is typed beside `experiment=<name>` to get the configuration that the number is for.
    """

    source: str
    metric: str
    of: str
    tolerance: float
    value: float
    overrides: str

    @property
    def least(self) -> float:
        return self.value - self.tolerance

    @property
    def text(self) -> str:
        return f"{self.metric} {self.value:g}, {OF[self.of]}"


def published_of(node: Any, typed: Sequence[str], recipe: str) -> Published:
    """The row of `published` whose overrides were typed, the one with the most. Raises BadConfig."""
    if not isinstance(node, Mapping):
        raise BadConfig(
            f"no number is published for experiment={recipe}: there is nothing to compare with",
            hint="python scripts/reproduce.py --list shows those that have one; docs/recipes.md says how to add one",
        )
    for key, (kind, expected) in KEYS.items():
        if not isinstance(node.get(key), kind) or (key == "of" and node[key] not in OF):
            raise BadConfig(
                f"conf/experiment/{recipe}.yaml: published.{key} must be {expected}, got {node.get(key)!r}",
                hint="conf/experiment/cifar10_resnet20.yaml shows all keys",
            )
    rows = [row for row in node["rows"] if _items(str(row["overrides"]).split()).items() <= _items(typed).items()]
    if not rows:
        members = "\n".join(f"  {row['overrides']}" for row in node["rows"])
        raise BadConfig(
            f"experiment={recipe} has published numbers for these alone:\n{members}", hint="add one of them"
        )
    row = max(rows, key=lambda row: len(str(row["overrides"]).split()))
    about = {key: node[key] for key in ("source", "metric", "of", "tolerance")}
    return Published(**about, value=row["value"], overrides=str(row["overrides"]))


def beside(published: Published, typed: Sequence[str]) -> list[str]:
    """What was typed beside the words that the number is for."""
    meant = _items(published.overrides.split())
    return [word for word in typed if not _items([word]).items() <= meant.items()]


def verdict(values: Sequence[float], published: Published) -> tuple[str, str]:
    """PASS, FAIL or UNDECIDED, and why.

    >>> number = Published("a paper", "val/top1", "best", 0.01, 0.9, "")
    >>> verdict([0.91, 0.90, 0.905], number)
    ('PASS', 'the 95 % interval of the mean, 0.8926 to 0.9174, lies above 0.9 - 0.01 = 0.89')
    >>> verdict([0.91, 0.88, 0.905], number)[0], verdict([0.85, 0.80], number)[0], verdict([0.91], number)[0]
    ('UNDECIDED', 'UNDECIDED', 'UNDECIDED')
    >>> verdict([0.81, 0.80, 0.805], number)[0]
    'FAIL'
    """
    limit = f"{published.value:g} - {published.tolerance:g} = {published.least:g}"
    low, high = interval(values)
    if low is None or high is None:
        return "UNDECIDED", "one run has no spread: take seeds=3 or more"
    about = f"the 95 % interval of the mean, {low:.4f} to {high:.4f},"
    if low >= published.least:
        return "PASS", f"{about} lies above {limit}"
    if high < published.least:
        return "FAIL", f"{about} lies below {limit}"
    return "UNDECIDED", f"{about} holds {limit}: more seeds make it narrower"


def card_of(recipe: str, published: Published, runs: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """All that the card shows, for JSON; `runs` have seed, value, step, seconds and folder."""
    values = [run["value"] for run in runs]
    word, why = verdict(values, published)
    low, high = interval(values)
    measured = {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else None, "n": len(values)}
    return {
        "recipe": recipe,
        "verdict": word,
        "why": why,
        "published": vars(published),
        "measured": measured | {"low": low, "high": high},
        **more,
        "runs": [dict(run) for run in runs],
    }


def measured_text(card: Mapping[str, Any]) -> str:
    """
    >>> measured_text({"measured": {"mean": 0.9, "sd": 0.001, "n": 3}})
    '0.9000 ± 0.0010 (n = 3)'
    """
    found = card["measured"]
    spread = "" if found["sd"] is None else f" ± {found['sd']:.4f}"
    return f"{found['mean']:.4f}{spread} (n = {found['n']})"


def rows_of(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of a card, each with its heading."""
    published, cost = Published(**card["published"]), card["cost"]
    return [
        ("recipe", f"experiment={card['recipe']} {published.overrides}".strip()),
        ("published", f"{published.text} ({published.source})"),
        ("measured", f"{measured_text(card)}: mean and standard deviation over the seeds"),
        ("verdict", f"{card['verdict']}: {card['why']}"),
        ("changed", ", ".join(card["changed"]) or "nothing"),
        ("hardware", "; ".join(card["hardware"])),
        ("versions", ", ".join(f"{name} {number}" for name, number in card["versions"].items())),
        ("cost", f"{cost['hours']:.3g} hours of training in all, {cost['seconds']:.0f} s a run (median)"),
        ("code", card["code"]),
        ("command", f"`{card['command']}`"),
    ]


def as_markdown(card: Mapping[str, Any]) -> str:
    lines = [f"# {card['name']}: {card['verdict']}", "", "| | |", "|---|---|"]
    lines += [f"| {head} | {text.replace('|', '&#124;')} |" for head, text in rows_of(card)]
    lines += ["", f"| seed | {card['published']['metric']} | step | training, s | folder |", "|---|---|---|---|---|"]
    for run in card["runs"]:
        lines.append(f"| {run['seed']} | {run['value']:.4f} | {run['step']} | {run['seconds']:.0f} | {run['folder']} |")
    return "\n".join(lines) + "\n"


def card_name(recipe: str, overrides: str) -> str:
    """
    >>> card_name("cifar10_resnet20", "model.depth=32"), card_name("deit_small", "")
    ('cifar10_resnet20-model.depth-32', 'deit_small')
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{recipe} {overrides}").strip("-")


def listing(recipes: Mapping[str, Mapping[str, Any]], cards: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each number that is published, with what was measured here.

    Args:
        recipes: name of each recipe -> its `published`.
    """
    measured = {(card["recipe"], card["published"]["overrides"]): card for card in cards}
    lines = []
    for name, node in sorted(recipes.items()):
        lines.append(f"experiment={name}  {node['metric']}, {node['of']}")
        for row in node["rows"]:
            card = measured.get((name, row["overrides"]))
            line = f"  {row['overrides'] or '(as it is)':<68} {row['value']:.4f}"
            lines.append(line + (f"  {measured_text(card)} {card['verdict']}" if card else ""))
    return lines


def _items(words: Iterable[str]) -> dict[str, Any]:
    """Key -> value of each override, so that 1e-4 is 0.0001 and a space in a list counts for nothing."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    return {override.key_or_group: _hashable(override.value()) for override in parsed}


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else str(value) if isinstance(value, dict) else value
