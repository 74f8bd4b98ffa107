"""What is wrong with a choice such as `optimizer=sgd`: there is no such option, or the group takes it otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from hydra.core.override_parser.types import Override

from plainloop.config.explain.names import nearest
from plainloop.config.explain.other_codes import OPTIONS
from plainloop.config.explain.problems import Problem, as_typed, listing

# Groups of named things, of which several options can be taken at once: logger=[csv,wandb].
SEVERAL = ("augment", "logger", "experiment", "debug")


def wrong_option(
    override: Override, *, options: Sequence[str], defaults: Mapping[str, str | None], chosen: Sequence[str]
) -> Problem | None:
    """
    Args:
        options: of the group.
        defaults: the option of each group that conf/train.yaml names; None where it leaves one out.
        chosen: options of this group that were typed before, as text.
    """
    group, value = override.key_or_group, override.value()
    wanted = value if isinstance(value, list) else [value]
    if override.is_delete() or wanted in ([], [None], [""]):
        return _left_out(override, options, defaults.get(group))
    if isinstance(value, list) and group not in SEVERAL:
        return Problem(
            group,
            "takes one option",
            override.get_value_element_as_str(),
            given_by=by(override.input_line),
            instead=f"{group}={wanted[0]}, or -m {group}={','.join(map(str, wanted))} for a sweep",
        )
    for option in wanted:
        if override.is_sweep_override():
            return needs_multirun(override)
        if option not in options:
            return _no_such_option(override, option, wanted, options)
    if (override.is_add() or override.is_force_add()) and group in defaults:
        return _added(override, chosen[-1] if chosen else defaults[group])
    return None


def meant_option(group: str, word: str, options: Sequence[str]) -> str:
    """The option that was meant by a word of another library, by a file's name, or by a slip of the pen; "" for none.

    >>> meant_option("optimizer", "torch.optim.SGD", ["adam", "sgd"]), meant_option("scheduler", "StepLR", ["step"])
    ('sgd', 'step')
    >>> meant_option("model", "MobileNetV3_large_x1_0", ["mobilenetv3_large_100", "tiny"])
    'mobilenetv3_large_100'
    """
    word = re.sub(r"\.ya?ml$", "", word.strip("'\" "))
    plain = {_plain(option): option for option in options}
    for part in (word, PurePath(word).name, word.rpartition(".")[2]):
        found = plain.get(_plain(part)) or OPTIONS.get(group, {}).get(_plain(part))
        if found in options and found is not None:
            return found
    near = nearest(word.lower(), options)
    if near:
        return near[0]
    alike = {option: _same_start(_plain(word), name) for name, option in plain.items()}
    return max((o for o in options if alike[o] >= max(4, 0.7 * len(_plain(word)))), key=alike.__getitem__, default="")


def chosen_twice(overrides: Sequence[str]) -> list[Problem]:
    """Two options of a group of several things: Hydra would take the last without a word, where a list takes both.

    Of all other groups the last counts, as of values: a command is changed by what is added to it.
    """
    typed: dict[str, list[str]] = {}
    for text in overrides:
        group, equals, option = text.lstrip("+").partition("=")
        if equals and group in SEVERAL:
            typed.setdefault(group, []).append(option.strip("'\""))
    twice = {group: list(dict.fromkeys(options)) for group, options in typed.items() if len(set(options)) > 1}
    return [
        Problem(
            group,
            "is given more than once",
            " ".join(f"{group}={option}" for option in options),
            "one list of options",
            by(next(text for text in reversed(overrides) if text.lstrip("+").startswith(f"{group}="))),
            instead=f"{group}=[{','.join(option.strip('[]') for option in options)}]",
        )
        for group, options in twice.items()
    ]


def needs_multirun(override: Override) -> Problem:
    key, _, value = str(override.input_line).partition("=")
    return Problem(
        override.key_or_group,
        f"several values in one run, {value}",
        given_by=by(override.input_line),
        instead=f"-m {key}={value} for a sweep, or {key}=[{value}] for a list",
    )


def by(text: str | None) -> str:
    return f"command line override {as_typed(text or '')}"


def _no_such_option(override: Override, option: object, wanted: Sequence[object], options: Sequence[str]) -> Problem:
    group, word = override.key_or_group, str(option)
    near, notes = meant_option(group, word, options), (f"options of {group}: {listing(options)}",)
    meant = f"{group}={near}" if near else ""
    if near and len(wanted) > 1:
        meant = f"{group}=[{','.join(near if other is option else str(other) for other in wanted)}]"
    instead = meant
    if (
        group == "model"
        and _letters(word) == _letters(near)
        and re.search(r"\d", word)
        and _plain(word) != _plain(near)
    ):
        meant, instead = "", f"model=timm model.model_name={word.lower()}"  # of the same family: no slip of the pen
    what = f"there is no option {option!r}"
    return Problem(group, what, given_by=by(override.input_line), meant=meant, instead=instead, notes=notes)


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _letters(word: str) -> str:
    return re.sub(r"[^a-z]", "", word.lower())


def _same_start(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _left_out(override: Override, options: Sequence[str], default: str | None) -> Problem | None:
    """A group that is left out by default may be; one of named things can be empty."""
    group = override.key_or_group
    if default is None and override.is_delete():
        return None
    none = "none" if "none" in options else default
    instead = f"leave {override.input_line} out" if default is None else f"{group}={none}"
    notes = (f"options of {group}: {listing(options)}",)
    return Problem(group, "needs an option", given_by=by(override.input_line), instead=instead, notes=notes)


def _added(override: Override, chosen: str | None) -> Problem:
    """`+augment=mine` is Hydra's way for a group that has no place in conf/train.yaml; ours have all."""
    group, added = override.key_or_group, override.get_value_element_as_str()
    what = f"{group}={chosen} is chosen already" if chosen is not None else "has its place already"
    instead = f"{group}={added}"
    if group in SEVERAL and chosen is not None:
        instead = f"{group}=[{chosen.strip('[]')},{added.strip('[]')}] for both, or {instead}"
    return Problem(group, f"{what}: no + here", given_by=by(override.input_line), instead=instead)
