"""What is wrong with a choice such as `optimizer=sgd`: there is no such option, or the group takes it otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePath
from typing import Any

from hydra.core.override_parser.types import Override

from plainloop.config.explain import other_codes
from plainloop.config.explain.problems import Problem, as_typed, listing
from plainloop.config.explain.suggest import nearest
from plainloop.config.groups import SEVERAL


@dataclass(frozen=True)
class Library:
    """Every group's options, and the keys that an option's file has, with what is written there."""

    options: Mapping[str, Sequence[str]]
    read: Callable[[str, str], Mapping[str, Any]]


def wrong_option(override: Override, library: Library, default: str | None) -> Problem | None:
    """`default` is the option that conf/train.yaml names; None where it leaves the group out."""
    group, value = override.key_or_group, override.value()
    options = library.options[group]
    wanted = value if isinstance(value, list) else [value]
    if override.is_sweep_override():
        return needs_multirun(override)
    if override.is_delete() or wanted in ([], [None], [""]):
        if default is None and override.is_delete():
            return None  # what is left out by default may be left out
        empty = f"{group}={'none' if 'none' in options else default}"
        instead = f"leave {override.input_line} out" if default is None else empty
        return _problem(override, "needs an option", instead=instead, notes=_options(group, options))
    if isinstance(value, list) and group not in SEVERAL:
        instead = f"{group}={wanted[0]}, or -m {group}={','.join(map(str, wanted))} for a sweep"
        return _problem(override, "takes one option", override.get_value_element_as_str(), instead=instead)
    for option in wanted:
        if isinstance(option, list) and set(map(str, option)) <= {*options}:
            several = str(override.input_line).partition("=")[2][1:-1]
            return _problem(override, "has a list in its list", instead=f"-m {group}={several} for a sweep")
        if option not in options:
            return _no_such_option(override, option, options)
    return _same_names(override, [str(option) for option in wanted], library) if len(wanted) > 1 else None


def choose(group: str, word: str, options: Sequence[str]) -> str:
    """What to type for an option that was meant by another code's word, a path or a typo; "" when none was.

    >>> choose("optimizer", "torch.optim.SGD", ["adam", "sgd"]), choose("scheduler", "StepLR", ["step"])
    ('optimizer=sgd', 'scheduler=step')
    >>> choose("model", "resnet101", ["resnet18", "timm"]), choose("data", "/data/pets", ["image_folder"])
    ('model=timm model.model_name=resnet101', 'data=image_folder data.root=/data/pets')
    """
    word = re.sub(r"\.ya?ml$", "", word.strip("'\" "))
    if not re.fullmatch(r"[\w./@:-]*[A-Za-z][\w./@:-]*", word) or word.lower() in ("true", "false"):
        return ""
    plain = {_plain(option): option for option in options}
    for part in (word, PurePath(word).name, word.rpartition(".")[2]):
        found = plain.get(_plain(part)) or other_codes.options().get((group, _plain(part)))
        if found in options:
            return f"{group}={found}"
    if group == "data" and "/" in word:
        return f"data=image_folder data.root={word}"
    near = next(iter(nearest(word, options)), "")
    digits, theirs = (re.sub(r"\D", "", name) for name in (word, near))
    if group == "model" and digits != theirs:
        return f"model=timm model.model_name={word.lower()}"  # another model of a family, not a typo
    return f"{group}={near}" if near else ""


def chosen_twice(overrides: Sequence[str]) -> list[Problem]:
    """Two options of a group of named things: Hydra would silently take the last, where a list takes both.

    Of all other groups the last one counts, as of values: a command is changed by adding to its end.
    """
    problems = []
    for group in SEVERAL:
        texts = [text for text in overrides if text.lstrip("+").startswith(f"{group}=")]
        options = list(dict.fromkeys(text.partition("=")[2].strip("'\"") for text in texts))
        if len(options) > 1:
            got, instead = " ".join(f"{group}={o}" for o in options), ",".join(o.strip("[]") for o in options)
            what, expected = "is given more than once", "one list of options"
            problems.append(Problem(group, what, got, expected, by(texts[-1]), instead=f"{group}=[{instead}]"))
    return problems


def needs_multirun(override: Override) -> Problem:
    key, _, value = str(override.input_line).partition("=")
    instead = f"-m {key}={value} for a sweep, or {key}=[{value}] for a list"
    return _problem(override, f"several values in one run, {value}", instead=instead)


def by(text: str | None) -> str:
    return f"command line override {as_typed(text or '')}"


def _no_such_option(override: Override, option: object, options: Sequence[str]) -> Problem:
    group, notes = override.key_or_group, _options(override.key_or_group, options)
    absent = other_codes.lookup(str(option))
    if absent and absent.absent:
        return _problem(override, f"{option} is not in this version", notes=(absent.note, *notes))
    instead = choose(group, str(option), options)
    near = instead.removeprefix(f"{group}=") if " " not in instead else ""
    typed = override.value()
    if near and isinstance(typed, list):
        instead = f"{group}=[{','.join(near if one == option else str(one) for one in typed)}]"
    what = f"there is no option {option!r}"
    return _problem(override, what, meant=f"{group}={near}" if near else "", instead=instead, notes=notes)


def _same_names(override: Override, wanted: Sequence[str], library: Library) -> Problem | None:
    """Two options that call different things by one name would be mixed into one that is neither."""
    group = override.key_or_group
    for one, other in combinations(wanted, 2):
        ours, theirs = library.read(group, one), library.read(group, other)
        clash = [key for key in ours if key.endswith("._target_") and theirs.get(key, ours[key]) != ours[key]]
        if clash:
            what = f"{one} and {other} both have a {clash[0].partition('.')[0]}, and they differ: only one can be taken"
            return _problem(override, what, instead=f"{group}={one}, or {group}={other}")
    return None


def _problem(override: Override, what: str, got: str = "", **more: Any) -> Problem:
    return Problem(override.key_or_group, what, got, given_by=by(override.input_line), **more)


def _options(group: str, options: Sequence[str]) -> tuple[str]:
    return (f"options of {group}: {listing(options)}",)


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())
