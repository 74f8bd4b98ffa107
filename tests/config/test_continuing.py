"""What a command line changes of a run that it goes on with."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from plainloop.config import compare
from plainloop.config.check.check import check
from plainloop.config.compose.resume import continued, saved_config
from plainloop.run.resume import plain
from tests.harness.commands import COMPOSER, SEEN, passed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of the tiny model was begun."""
    found = tmp_path_factory.mktemp("run")
    (found / "config.yaml").write_text(yaml.safe_dump(plain(passed("model.width=8").config), sort_keys=False))
    return found


def going_on(folder: Path, *typed: str) -> dict[str, Any]:
    """The checked config of a run that is resumed there with these overrides."""
    overrides = COMPOSER.as_names([f"resume={folder}", *typed])
    composed = COMPOSER.compose_or_explain(overrides)
    assert composed.config is not None
    config, origin = continued(folder, overrides, composed.config, COMPOSER)
    return check(config, origin=origin, folder=folder, seen=SEEN).config


def changed(folder: Path, *typed: str) -> set[str]:
    return {pair.key for pair in compare.differences(saved_config(folder), plain(going_on(folder, *typed)))}


def test_nothing_is_changed_by_nothing(folder: Path) -> None:
    assert changed(folder) == set()


def test_another_option_of_a_group_replaces_the_whole_group(folder: Path) -> None:
    assert changed(folder, "model=resnet20") == {"model._target_", "model.depth", "model.stem_stride", "model.width"}
    assert going_on(folder, "model=resnet20")["model"] == passed("model=resnet20").config["model"]
    assert going_on(folder, "optimizer=sgd", "optimizer.lr=0.3")["optimizer"]["lr"] == 0.3


def test_one_value_changes_that_value(folder: Path) -> None:
    assert changed(folder, "model.width=4") == {"model.width"}
    assert changed(folder, "optimizer.lr=0.3") == {"optimizer.lr"}


def test_an_option_for_the_whole_config_changes_what_it_sets_and_no_more(folder: Path) -> None:
    assert changed(folder, "debug=nan") == {"name", "trainer.detect_anomaly", "trainer.log_every"}
    now = going_on(folder, "debug=overfit")
    assert now["model"]["width"] == 8
    assert list(now["augment"]) == ["first_batch"]
    assert now["scheduler"]["_target_"] == "plainloop.schedule.constant"
