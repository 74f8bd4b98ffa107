"""What a command line changes of a run that it goes on with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from plainloop.config import compare
from plainloop.config.check.check import check
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.compose.resume import merge_saved_config, saved_config, split_resume
from plainloop.config.explain.problems import InvalidConfig
from plainloop.run.resume import plain
from tests.harness.commands import CACHE, COMPOSER, ROOT, passed
from tests.harness.pictures import write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of the tiny model was begun."""
    found = tmp_path_factory.mktemp("run")
    (found / "config.yaml").write_text(yaml.safe_dump(plain(passed("model.width=8").config), sort_keys=False))
    return found


def going_on(folder: Path, *typed: str) -> dict[str, Any]:
    """The checked config of a run that is resumed there with these overrides."""
    overrides = COMPOSER.as_names([f"resume={folder}", *typed])
    composed = merge_saved_config(folder, overrides, COMPOSER)
    assert composed.config is not None and composed.problems == []
    origin = Origin(overrides, composer=COMPOSER, saved=folder / "config.yaml")
    return check(composed.config, origin=origin, folder=folder, cache=CACHE).config


def changed(folder: Path, *typed: str) -> set[str]:
    return {pair.key for pair in compare.differences(saved_config(folder), plain(going_on(folder, *typed)))}


def test_nothing_is_changed_by_nothing(folder: Path) -> None:
    assert changed(folder) == set()


def test_another_option_of_a_group_replaces_the_whole_group(folder: Path) -> None:
    assert changed(folder, "model=resnet20") == {"model._target_", "model.depth", "model.stem_stride", "model.width"}
    assert going_on(folder, "model=resnet20")["model"] == passed("model=resnet20").config["model"]
    assert going_on(folder, "optimizer=sgd", "optimizer.lr=0.3")["optimizer"]["lr"] == 0.3


def test_values_that_followed_from_another_still_follow_it(folder: Path) -> None:
    assert changed(folder, "trainer.duration=40ep") == {"trainer.duration", "scheduler.total_steps"}
    assert changed(folder, "data.num_workers=2") == {"data.num_workers"}
    sizes = {f"data.{part}batch_size" for part in ("", "train.", "val.", "test.")}
    assert changed(folder, "data.batch_size=32") == sizes


def test_one_value_changes_that_value(folder: Path) -> None:
    assert changed(folder, "model.width=4") == {"model.width"}
    assert changed(folder, "optimizer.lr=0.3") == {"optimizer.lr"}


def test_an_option_for_the_whole_config_changes_what_it_sets_and_no_more(folder: Path) -> None:
    assert changed(folder, "debug=nan") == {"name", "trainer.detect_anomaly", "trainer.log_every"}
    now = going_on(folder, "debug=overfit")
    assert now["model"]["width"] == 8
    assert list(now["augment"]) == ["first_batch"]
    assert now["scheduler"]["_target_"] == "plainloop.schedule.constant"


def test_a_run_is_judged_by_its_own_data_and_model_and_not_by_the_defaults(tmp_path: Path) -> None:
    write_pictures(tmp_path / "before")
    typed = ("data=image_folder", "model=timm", "model.model_name=resnet18", "data.image_size=32", "data.batch_size=8")
    saved = plain(passed(*typed, f"data.root={tmp_path / 'before'}").config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved, sort_keys=False))
    (tmp_path / "before").rename(tmp_path / "after")
    assert changed(tmp_path, f"data.root={tmp_path / 'after'}") == {"data.root"}


@pytest.mark.parametrize("word", ["true", "latest", "last", "1"])
def test_words_that_name_no_run_are_answered_with_auto(word: str) -> None:
    with pytest.raises(InvalidConfig, match=f"{word} names no run(.|\\n)*type instead: resume=auto"):
        split_resume(word)


def test_a_part_says_itself_which_of_its_arguments_change_no_result() -> None:
    cifar = {"data": {"_target_": "plainloop.data.cifar.CIFAR"}}
    harmless = ("data.root", "data.download", "data.num_workers", "logger.csv.x", "resume_step")
    assert [key for key in harmless if compare.changes_result(key, cifar)] == []
    assert compare.changes_result("data.mean", cifar) and compare.changes_result("data.download", {"data": {}})


def test_plugins_are_those_of_conf_local_and_never_the_runs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    local = tmp_path / "conf/local/default.yaml"
    local.parent.mkdir(exist_ok=True)
    local.write_text("# @package _global_\nplugins: [my_package]\n")
    run = tmp_path / "local"  # a name that is not enough
    run.mkdir()
    (run / "config.yaml").write_text((folder / "config.yaml").read_text().replace("plugins: []", "plugins: [theirs]"))
    composer = Composer(tmp_path / "conf")
    config = merge_saved_config(run, [], composer).config
    origin = Origin([], composer=composer, saved=run / "config.yaml")
    assert config is not None and list(config.plugins) == ["my_package"]
    assert str(origin.place_of("plugins")) == "conf/local/default.yaml:2"
    assert check(config, origin=origin, cache=CACHE).config["plugins"] == ["my_package"]
    local.unlink()
    without = Origin([], composer=Composer(tmp_path / "conf"), saved=run / "config.yaml")
    with pytest.raises(InvalidConfig, match="plugins: can be given on the command line or in conf/local only"):
        check(config, origin=without, cache=CACHE)
