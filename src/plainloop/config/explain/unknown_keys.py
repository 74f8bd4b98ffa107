"""What is told of a key that does not exist: another option has it, another code calls it so, or it was misspelt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf

from plainloop.config.explain.names import alike, distance, nearest, nearest_key
from plainloop.config.explain.other_codes import Ours, ours, ours_misspelt
from plainloop.config.explain.problems import Problem, listing
from plainloop.config.explain.remedy import kind_of, meant_by
from plainloop.config.explain.wrong_options import SEVERAL, by, meant_option
from plainloop.config.nodes import key_paths, node_at
from plainloop.config.settings import annotation_of
from plainloop.config.types import UNKNOWN, misfit
from plainloop.system.secrets import looks_secret

# Where several options have a key: the one that most people mean.
_USUAL = ("multistep", "cosine_warmup", "sgd", "adamw", "image_folder", "timm", "crop_flip", "submitit_slurm")


@dataclass(frozen=True)
class Library:
    """Every group's options, and the keys that an option's file has, with what is written there."""

    options: Mapping[str, Sequence[str]]
    read: Callable[[str, str], Mapping[str, Any]]


def unknown(override: Override, config: DictConfig, library: Library) -> Problem:
    return _Unknown(override, config, library).problem()


class _Unknown:
    def __init__(self, override: Override, config: DictConfig, library: Library) -> None:
        self.override, self.config, self.library = override, config, library
        self.key: str = override.key_or_group
        self.has_value = not override.is_delete() and override.value_type is not None
        self.text = str(override.input_line).partition("=")[2]
        self.of_hydra = self.key.split(".")[0] == "hydra"
        self.keys = [key for key in key_paths(config) if (key.split(".")[0] == "hydra") == self.of_hydra]
        self.group, self.inner = self._place(self.key)

    def problem(self) -> Problem:
        if looks_secret(self.key):
            expected = "secrets come from the environment (WANDB_API_KEY) and stay there"
            return self._told("unknown key, and it looks like a secret", expected=expected, instead=self._left_out())
        groups = [group for group in self.library.options if group.startswith("hydra/") == self.of_hydra]
        near = nearest_key(self.key, [*self.keys, *groups])
        slip = bool(near) and distance(self.key, near[0], 1) == 1  # of the pen
        having = [] if slip and "." in self.key else self._options_with(self.key)
        if having:
            return self._of_another_option(having, self.key)
        foreign = None if self.of_hydra else ours(self.key) or (None if near else ours_misspelt(self.key))
        if slip and "." in self.key and foreign is not None and foreign.key != near[0]:
            foreign = None
        if foreign is not None and foreign.key != self.key:
            return self._foreign(foreign)
        if not slip and self._taken():
            return self._told(
                "is in no YAML file, but can be added with +", instead=f"+{self.key}={self.text or '...'}"
            )
        fitting = [key for key in near if self._fits(key)]
        if fitting or slip:
            return self._misspelt(fitting[0] if fitting and not slip else near[0])
        return self._misspelt_elsewhere() or self._told("unknown key", notes=self._valid())

    def _place(self, key: str) -> tuple[str, str]:
        """The group that a key would be of, and the key inside it."""
        for group in sorted(self.library.options, key=len, reverse=True):
            prefix = group.replace("/", ".") + "."
            if key.startswith(prefix):
                return group, key.removeprefix(prefix)
        return "", ""

    def _chosen(self) -> list[str]:
        chosen = str(self.config.hydra.runtime.choices.get(self.group, "")).strip("[]")
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "none"]

    def _options_with(self, key: str, *, of_this_target: bool = False) -> list[str]:
        """Options of the group whose file has the key, those whose value there is like the given one first.

        Args:
            of_this_target: those that build what is built now, and so would take the key here; else the others.
        """
        group, inner = self._place(key)
        if not inner:
            return []
        found = {option: self.library.read(group, option) for option in self.library.options[group]}
        here = node_at(self.config, f"{group.replace('/', '.')}._target_")
        same = [option for option, keys in found.items() if here is not None and keys.get("_target_") == here._value()]
        having = [option for option, keys in found.items() if inner in keys]
        if of_this_target or any(option in same for option in having):
            return [option for option in having if option in same] if of_this_target else []
        return sorted(having, key=lambda o: (not self._like(found[o][inner]), o not in _USUAL, o))

    def _of_another_option(self, having: Sequence[str], key: str) -> Problem:
        group, inner = self._place(key)
        named = inner.split(".")[0] if group in SEVERAL else inner
        chosen = self._chosen()
        notes = (f"options of {group} with {named}: {listing(having)}",)
        what = f"{group}={','.join(chosen) or 'none'} has no {named}; {listing(having)} {_have(having)}"
        if not self.has_value:
            return self._told(what, instead=self._left_out())
        several = group in SEVERAL and chosen
        option = f"[{','.join([*chosen, having[0]])}]" if several else having[0]
        meant = key if key != self.key else ""
        value = self._adapted(self.library.read(group, having[0]).get(inner))
        return self._told(what, meant=meant, instead=f"{group}={option} {key}={value}", notes=notes if meant else ())

    def _foreign(self, foreign: Ours) -> Problem:
        what = f"here that is `{foreign.key}`" if foreign.key else "is not needed here"
        first, _, rest = foreign.instead(self.text).partition(" ")
        if rest and foreign.key in self.keys:
            first, rest = rest, ""  # the option that has it is chosen already
        key, _, value = (rest or first).partition("=")
        if key == foreign.key and value != "...":
            value = self._for(key, value)
        text = f"{first} {key}={value}" if rest else f"{key}={value}" if key else ""
        if not rest and foreign.key not in self.keys and not key.startswith("+"):
            having = self._options_with(foreign.key)
            text = f"{self._place(foreign.key)[0]}={having[0]} {text}" if having else text
        if not self.has_value:
            text = ""
        return self._told(what, instead=text or self._left_out(), notes=(foreign.note,) if foreign.note else ())

    def _misspelt(self, key: str) -> Problem:
        if self.override.is_delete():
            instead = f"~{key}"
        else:
            instead = f"{key}={self._for(key, self.text)}" if self._fits(key, repaired=True) else ""
        return self._told("unknown key", meant=key, instead=instead, notes=self._valid())

    def _misspelt_elsewhere(self) -> Problem | None:
        """A name that comes with another option, and is misspelt."""
        prefix, options = self.group.replace("/", "."), self.library.options.get(self.group, ())
        keys = {f"{prefix}.{inner}" for option in options for inner in self.library.read(self.group, option)}
        near = alike(self.key, keys) if self.inner else []
        having = self._options_with(near[0]) if near else []
        return self._of_another_option(having, near[0]) if having else None

    def _taken(self) -> bool:
        """Whether what is built there takes it; asked only if nothing is spelled alike, as it loads torch."""
        parent, _, last = self.key.rpartition(".")
        node = node_at(self.config, parent) if parent and self.has_value else None
        if not isinstance(node, DictConfig) or "_target_" not in node or nearest(last, map(str, node)):
            return False
        if self._options_with(self.key, of_this_target=True):
            return True
        from plainloop.config.explain.takes import takes

        return takes(node, last, [str(name) for name in self.config.get("plugins") or ()])

    def _fits(self, key: str, *, repaired: bool = False) -> bool:
        if self.override.is_delete() or key in self.library.options:
            return True
        if not self.has_value:
            return False
        kind = self._kind(key)
        return misfit(self.override.value(), kind) is None or (repaired and bool(meant_by(self.override.value(), kind)))

    def _for(self, key: str, text: str) -> str:
        """The value, as the key takes it."""
        if key in self.library.options:
            return meant_option(key, text, self.library.options[key]) or text
        value = self.override.value() if text == self.text else text
        kind = self._kind(key)
        return text if misfit(value, kind) is None else meant_by(value, kind) or text

    def _adapted(self, written: Any) -> str:
        value, kind = self.override.value(), kind_of(written)
        return self.text if misfit(value, kind) is None else meant_by(value, kind) or self.text

    def _like(self, written: Any) -> bool:
        return not self.has_value or misfit(self.override.value(), kind_of(written)) is None

    def _kind(self, key: str) -> Any:
        found = annotation_of(key)
        if found is not None:
            return found
        node = node_at(self.config, key)
        if node is None or isinstance(node, DictConfig):
            return UNKNOWN if node is None else dict
        return kind_of(OmegaConf.to_container(node) if isinstance(node, ListConfig) else node._value())

    def _valid(self) -> tuple[str, ...]:
        """The names that are there, beside the last part of the key that is."""
        parent = self.key.rpartition(".")[0]
        while parent and not isinstance(node_at(self.config, parent), DictConfig):
            parent = parent.rpartition(".")[0]
        siblings = node_at(self.config, parent) if parent else self.config
        valid = [str(name) for name in siblings if name != "hydra"]
        return (f"valid keys{' of ' + parent if parent else ''}: {listing(valid)}",) if valid else ()

    def _left_out(self) -> str:
        return f"leave {'~' if self.override.is_delete() else ''}{self.key} out"

    def _told(self, what: str, **more: Any) -> Problem:
        return Problem(self.key, what, given_by=by(self.override.input_line), **more)


def _have(options: Sequence[str]) -> str:
    return "has it" if len(options) == 1 else "have it"
