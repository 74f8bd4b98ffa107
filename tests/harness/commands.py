"""What a command line would be told, without a process."""

from pathlib import Path

from plainloop.config.check.check import CheckCache, Checked, check
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import InvalidConfig, Problem, for_hydra

ROOT = Path(__file__).resolve().parents[2]
CACHE = CheckCache()  # models and data are looked at once for all tests
COMPOSER = Composer(ROOT / "conf")


def passed(*overrides: str, **more: object) -> Checked:
    """The checked config of a command line that is right."""
    overrides = tuple(COMPOSER.as_names([for_hydra(override) for override in overrides]))
    composed = COMPOSER.compose_or_explain(overrides)
    assert composed.config is not None, composed.problems
    origin = Origin(overrides, composer=COMPOSER)
    return check(composed.config, origin=origin, known=composed.problems, cache=CACHE, **more)


def problems(*overrides: str, **more: object) -> dict[str, Problem]:
    """By key, what is wrong with it."""
    try:
        passed(*overrides, **more)
    except InvalidConfig as error:
        return {problem.key: problem for problem in error.problems}
    return {}
