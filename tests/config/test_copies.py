"""What is composed by copying is what Hydra composes."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.commands import COMPOSER

# Texts of one command, separated by two spaces.
COMMANDS = (
    "seed=1",
    "optimizer=sgd  seed=1  optimizer.lr=0.3",
    "seed=1  optimizer=sgd  scheduler=multistep  trainer.duration=3ep",
    "++seed=3  +a.b=1  ++a.b=2  ++optimizer.lr=1e-3",
    "~augment.flip  seed=1",
    "~seed",
    "~optimizer.lr=0.5",  # is another value: refused
    "+optimizer.lr=0.5",  # is there already: refused
    "optimizer.rate=0.5",  # is not there: refused
    "+augment.x={_target_: a.b, p: 0.5}",
    "optimizer={lr: 0.5}",  # a dict for a group is a value
    "+optimizer={nesterov: true}  optimizer.lr=1",
    "trainer.devices=[0,1]  plugins=[a,b]",
    "logger=[csv,console]  seed=1",
    "scheduler.warmup=3ep  trainer.duration=${scheduler.warmup}  name=${seed}",
    "name='a b'  +x=\"it's\"  +y='1'  +z=1",
    "seed=null  name=",
    "hydra/launcher=gpu_pool  hydra.launcher.slots=2  seed=2",
    "hydra.job.env_copy=[HOME]  seed=1  hydra.job.name=x",
    "hydra.sweep.subdir=${hydra.job.override_dirname}  optimizer=sgd  seed=1",
    "hydra.job.config.override_dirname.exclude_keys=[seed]  seed=1  name=a",
    "hydra.searchpath=[file:///nowhere]  seed=1",
    "experiment=cifar10_resnet20  data.batch_size=64  +experiment.x=1",
    "~logger  seed=1",
    "model@task=tiny  seed=1",  # refused
    "optimizer=sgdd  seed=1",  # refused
    "seed=1,2",  # is no single run
    "seed=choice(1,2)",
    "+seed@x=1",  # refused
)


def nodes(node: Any, path: str = "") -> Iterator[tuple[Any, ...]]:
    """All that a config is, unresolved: values, types and flags; not the time of day that Hydra has looked at."""
    value = node._value()
    flat = len(value) if isinstance(value, dict | list) else value
    yield path, type(node), vars(node._metadata) | {"resolver_cache": None}, type(flat), flat
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(child, f"{path}.{key}")


def result(compose: Any, command: str) -> list[tuple[Any, ...]] | str:
    try:
        return list(nodes(compose(command.split("  "))))
    except Exception as error:  # noqa: BLE001  # whatever Hydra raises, it must be the same
        return type(error).__name__


def by_copying(overrides: list[str]) -> Any:
    composed = COMPOSER.compose_or_explain(overrides)
    return COMPOSER.compose(overrides) if composed.problems else composed.config


@pytest.mark.parametrize("command", COMMANDS)
def test_a_copy_with_values_is_what_hydra_composes(command: str) -> None:
    first, second = (result(by_copying, command) for _ in range(2))
    assert first == second == result(COMPOSER.compose, command)


def test_the_comparison_sees_a_difference() -> None:
    assert result(COMPOSER.compose, "name=1") != result(COMPOSER.compose, "name='1'")
    assert result(COMPOSER.compose, "seed=1  name=a") != result(COMPOSER.compose, "name=a  seed=1")
    assert result(COMPOSER.compose, "name=${seed}") != result(COMPOSER.compose, "name=0")


def test_nothing_of_one_copy_is_in_the_next() -> None:
    by_copying(["+augment.x={_target_: a.b}", "seed=1"])
    assert result(by_copying, "seed=2") == result(COMPOSER.compose, "seed=2")
