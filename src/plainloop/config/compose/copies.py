"""Composes many configs at the price of few: Hydra composes each choice of groups once, copies take the values."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf


class Copies:
    """Hydra's own results, from the second of the same groups on in a fiftieth of its time.

    Args:
        compose: Hydra's composition.
        repository: the files, which tell groups from values.
    """

    def __init__(self, compose: Callable[[Sequence[str]], DictConfig], repository: IConfigRepository) -> None:
        self._compose = compose
        self._pickled: dict[tuple[str, ...], bytes] = {}
        self._is_group = cache(repository.group_exists)
        self._parse = cache(OverridesParser.create().parse_override)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra composes of these overrides. Raises what Hydra raises."""
        parsed = [self._parse(text) for text in overrides]
        values = [override for override in parsed if self._is_value(override)]
        if not values or any(override.is_sweep_override() for override in parsed):
            return self._compose(overrides)
        base = [text for text, override in zip(overrides, parsed, strict=True) if override not in values]
        key = (os.getcwd(), *base)  # Hydra writes the current folder into the config
        if key not in self._pickled:
            self._pickled[key] = pickle.dumps(self._compose(base))
        config: DictConfig = pickle.loads(self._pickled[key])
        OmegaConf.clear_cache(config)  # the time of day of the first one
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        ours = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in ours]
        dirname = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            ours, list(dirname.exclude_keys), dirname.item_sep, dirname.kv_sep
        )
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether it changes the composed config, as opposed to the files that it is composed of.

        Hydra's own keys are not such values here: what follows from them is left to Hydra.
        """
        if override.is_hydra_override():
            return False
        return isinstance(override.value(), dict) or not self._is_group(override.key_or_group)
