"""What is said of a key that does not exist: another option has it, another code calls it so, or it was misspelt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from plainloop.config.explain import other_codes
from plainloop.config.explain.other_codes import Equivalent
from plainloop.config.explain.problems import EVERYWHERE, Problem, listing
from plainloop.config.explain.suggest import as_override, is_one_edit, kind_of, nearest_key, suggest_value
from plainloop.config.explain.wrong_options import Library, by, choose
from plainloop.config.groups import SEVERAL
from plainloop.config.nodes import key_paths, node_at
from plainloop.config.settings import annotation_of, ranges
from plainloop.config.types import UNKNOWN, misfit
from plainloop.system.secrets import looks_secret

# Where several options have a key: the one that most people mean.
USUAL = ("multistep", "cosine_warmup", "sgd", "adamw", "image_folder", "timm", "yolov3", "crop_flip", "submitit_slurm")


class UnknownKey:
    def __init__(self, override: Override, config: DictConfig, library: Library) -> None:
        self.override, self.config, self.library = override, config, library
        self.key: str = override.key_or_group
        self.has_value = not override.is_delete() and override.value_type is not None
        self.text = str(override.input_line).partition("=")[2]
        self.of_hydra = self.key.split(".")[0] == "hydra"
        self.keys = [key for key in key_paths(config) if (key.split(".")[0] == "hydra") == self.of_hydra]

    def problem(self) -> Problem:
        if looks_secret(self.key):
            expected = "secrets come from the environment (WANDB_API_KEY) and stay there"
            return self._problem("unknown key, and it looks like a secret", expected=expected, instead=self._left_out())
        if isinstance(node_at(self.config, self.key), DictConfig):
            return self._not_a_value()
        groups = [group for group in self.library.options if group.startswith("hydra/") == self.of_hydra]
        named = (f"{key}.{self.key.rpartition('.')[2]}" for key in self.keys)
        free = [key for key in named if is_one_edit(self.key, key) and has_free_names(key, self.config, self.library)]
        parts = [key for key in (*self.keys, *free, *groups) if not self.key.startswith(f"{key}.")]
        near = nearest_key(self.key, parts)
        typo = bool(near) and is_one_edit(self.key, near[0])
        if not (typo and "." in self.key):
            if having := self._options_with(self.key):
                return self._of_another_option(having)
            row = None if self.of_hydra else other_codes.lookup(self.key)
            if row is not None:
                return self._equivalent(row)
        if near:
            return self._misspelt(near[0])
        return self._problem("unknown key", instead=self._left_out(), notes=self._valid())

    def _not_a_value(self) -> Problem:
        """`trainer.early_stop=5`: the key exists, and holds others."""
        row = other_codes.lookup(self.key)
        instead = self._advice(row.instead(self.text)) if row else ""
        expected = "a key below it: " + listing([str(name) for name in node_at(self.config, self.key)])
        return self._problem("holds keys of its own", got=self.text, expected=expected, instead=instead)

    def _equivalent(self, row: Equivalent) -> Problem:
        is_list = "[{" in row.forms[""] or not self.override.is_sweep_override()
        text = self._advice(row.instead((self.text if is_list else self.text.split(",")[0]).strip("'\"")))
        instead = text if text and self.has_value else self._left_out()
        return self._problem(row.what(text), instead=instead, notes=(row.note,) if row.note else ())

    def _place(self, key: str) -> tuple[str, str]:
        """The group that a key would be of, and the key inside it."""
        groups = sorted(self.library.options, key=len, reverse=True)
        group = next((group for group in groups if key.startswith(group.replace("/", ".") + ".")), "")
        return group, key[len(group) + 1 :] if group else ""

    def _options_with(self, key: str) -> list[str]:
        """Options of the group whose file has the key, the likeliest first.

        None where one of them builds what is built now, which so would take the key.
        """
        group, inner = self._place(key)
        files = {option: self.library.read(group, option) for option in self.library.options.get(group, ())}
        having = [option for option, keys in files.items() if inner in keys]
        target = node_at(self.config, f"{group.replace('/', '.')}._target_") if having else None
        if target is not None and any(files[option].get("_target_") == target._value() for option in having):
            return []
        kinds = {option: kind_of(files[option][inner]) for option in having}
        value = self.override.value() if self.has_value else None
        return sorted(having, key=lambda o: (misfit(value, kinds[o]) is not None, o not in USUAL, o))

    def _of_another_option(self, having: Sequence[str]) -> Problem:
        group, inner = self._place(self.key)
        named = inner.split(".")[0] if group in SEVERAL else inner
        typed = [text.partition("=")[2] for text in self.config.hydra.overrides.task if text.startswith(f"{group}=")]
        chosen = typed[-1] if typed else str(self.config.hydra.runtime.choices.get(group) or "none")
        have = "has" if len(having) == 1 else "have"
        what = f"{group}={chosen} has no {named}; {listing(having)} {have} it"
        if (
            group == "task"
        ):  # nobody learns something else for the sake of a key: one that has all keys of this is meant
            own = self.library.read(group, chosen).keys() if chosen in self.library.options[group] else set()
            having = [option for option in having if own <= self.library.read(group, option).keys()]
        if not having or not self.has_value or (group == "data" and inner != "root"):  # nor are other data meant
            return self._problem(what, instead=self._left_out())
        options = having[0]
        if group in SEVERAL and typed and chosen != "none" and not self._share_names(group, chosen, having[0]):
            options = f"[{chosen.strip('[]')},{having[0]}]"  # what was typed stays
        return self._problem(what, instead=f"{group}={options} {self._fit(self.key, self.text)}")

    def _share_names(self, group: str, chosen: str, option: str) -> bool:
        names = [
            {key.split(".")[0] for key in self.library.read(group, name.strip())}
            for name in (*chosen.strip("[]").split(","), option)
        ]
        return bool(set().union(*names[:-1]) & names[-1])

    def _misspelt(self, key: str) -> Problem:
        instead = f"~{key}" if self.override.is_delete() else self._advice(f"{key}={self.text}")
        return self._problem("unknown key", meant=key, instead=instead, notes=self._valid())

    def _advice(self, text: str) -> str:
        """Overrides with the option that has the key, if it is not chosen yet, and with values that their keys take."""
        *first, last = text.split(" ")
        key, _, value = last.partition("=")
        if key.lstrip("+") in self.keys:
            first, key = [], key.lstrip("+")
        elif not first and "." in key and not last.startswith(EVERYWHERE) and not key.startswith("hydra."):
            first = [f"{self._place(key)[0]}={having[0]}" for having in [self._options_with(key)] if having]
        return " ".join([*first, self._fit(key, value)] if key else first)

    def _fit(self, key: str, text: str) -> str:
        """`key=text`, with what was probably meant where the text does not fit, else with the value of our YAML."""
        if key in self.library.options:
            return choose(key, text, self.library.options[key]) or f"{key}=..."
        if has_free_names(key, self.config, self.library):
            return f"{key}={text}"
        value, written, allowed = _value(text), self._written(key), ranges().get(key)
        kind = annotation_of(key) or (int if type(written) is int else kind_of(written))
        if kind is str and annotation_of(key) is None:
            kind = str | int  # beside a word of ours, as auto, there may be numbers
        elif kind is UNKNOWN:
            kind = str if allowed is None else int
        if misfit(value, kind) is not None or (allowed and allowed.excludes(value)):
            has_own = written not in (None, "???") and "${" not in str(written)
            text = suggest_value(value, kind) or (as_override(written) if has_own else "...")
        return f"{key}={text}"

    def _written(self, key: str) -> Any:
        """The value of a key in the config, else in the file of an option that has it."""
        node = node_at(self.config, key)
        if node is not None:
            return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()
        group, inner = self._place(key)
        return next((self.library.read(group, option)[inner] for option in self._options_with(key)), None)

    def _valid(self) -> tuple[str, ...]:
        """The names that are there, beside the last part of the key that is."""
        parent = self.key.rpartition(".")[0]
        while parent and not isinstance(node_at(self.config, parent), DictConfig):
            parent = parent.rpartition(".")[0]
        node = node_at(self.config, parent) if parent else self.config
        valid = [str(name) for name in node if name != "hydra"]
        return (f"valid keys{' of ' + parent if parent else ''}: {listing(valid)}",) if valid else ()

    def _left_out(self) -> str:
        return f"leave {'~' if self.override.is_delete() else ''}{self.key} out"

    def _problem(self, what: str, **more: Any) -> Problem:
        return Problem(self.key, what, given_by=by(self.override.input_line), **more)


def has_free_names(key: str, config: DictConfig, library: Library) -> bool:
    """Whether the names beside this one are not ours: the option's file has an empty mapping there, or null."""
    parent = key.rpartition(".")[0]
    group, _, inside = parent.partition(".")
    option = config.hydra.runtime.choices.get(group)
    if not inside or option not in library.options.get(group, ()):
        return False
    written = library.read(group, option)
    return inside in written and written[inside] in (None, {}) and annotation_of(parent) in (None, dict[str, float])


def _value(text: str) -> Any:
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text
