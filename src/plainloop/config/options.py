"""What is wrong with a choice such as `optimizer=sgd`: there is no such option, or the group takes it otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override

from plainloop.config.names import nearest
from plainloop.config.problems import Problem, as_typed, listing

# Groups of named things, of which several options can be taken at once: logger=[csv,wandb].
_SEVERAL = ("augment", "logger", "experiment", "debug")


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
    if isinstance(value, list) and group not in _SEVERAL:
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
        if option in options or "/" in str(option):
            continue
        near = nearest(str(option), options)
        return Problem(
            group,
            f"there is no option {option!r}",
            given_by=by(override.input_line),
            meant=f"{group}={near[0]}" if near else "",
            notes=(f"options of {group}: {listing(options)}",),
        )
    if (override.is_add() or override.is_force_add()) and group in defaults:
        return _added(override, chosen[-1] if chosen else defaults[group])
    return None


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
    if group in _SEVERAL and chosen is not None:
        instead = f"{group}=[{chosen.strip('[]')},{added.strip('[]')}] for both, or {instead}"
    return Problem(group, f"{what}: no + here", given_by=by(override.input_line), instead=instead)
