"""`hydra.job.env_set`: variables of the environment, some of which are secrets that no file may hold."""

from __future__ import annotations

import os

from omegaconf import DictConfig, open_dict, read_write

from plainloop.system.secrets import looks_secret, redact


def set_secrets(hydra: DictConfig) -> None:
    """Sets the secret ones here, instead of Hydra, which would write them to `.hydra/hydra.yaml`."""
    with read_write(hydra), open_dict(hydra):
        for name in filter(looks_secret, list(hydra.job.env_set)):
            os.environ[name] = str(hydra.job.env_set.pop(name))
        hydra.overrides.hydra = [redact(text) for text in hydra.overrides.hydra]
