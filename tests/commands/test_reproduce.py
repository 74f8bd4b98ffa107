"""A recipe is trained with several seeds, compared with its number, and continued when it is typed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from plainloop.commands.reproduce import CARDS, main
from plainloop.errors import BadConfig
from plainloop.report.recipe import as_markdown, published_of, rows_of, verdict
from tests.harness.configs import ROOT
from tests.harness.sweeps import run

TOY = {
    "defaults": [{"override /optimizer": "sgd"}],
    "published": {"source": "a test", "metric": "val/top1", "of": "best", "tolerance": 0.5, "rows": []},
    "trainer": {"duration": "2ep"},
    "model": {"width": 4},
}
ROWS = [{"overrides": "", "value": 0.5}, {"overrides": "optimizer.lr=1e-3", "value": 0.9999}]


@pytest.fixture
def toy(tmp_path: Path) -> tuple[str, ...]:
    """What is typed for a recipe of a folder of one's own."""
    file = tmp_path / "conf/experiment/toy.yaml"
    file.parent.mkdir(parents=True)
    TOY["published"]["rows"] = ROWS
    file.write_text(f"# @package _global_\n{yaml.safe_dump(TOY)}")
    return "experiment=toy", "--config-dir", str(tmp_path / "conf"), "device=cpu"


def card(folder: Path, name: str) -> dict:
    return json.loads((folder / "outputs/reproduce" / name / f"{name}.json").read_text())


def test_a_recipe_is_trained_judged_and_continued(toy: tuple[str, ...], tmp_path: Path) -> None:
    code, said = run(tmp_path, *toy, "seeds=2", "name=toy", script="scripts/reproduce.py")
    first = card(tmp_path, "toy")
    assert [one["seed"] for one in first["runs"]] == [0, 1]
    for one in first["runs"]:
        best = json.loads((tmp_path / one["folder"] / "summary.json").read_text())["best"]
        assert (one["value"], one["step"]) == (best["value"], best["step"])
    assert first["measured"]["mean"] == sum(one["value"] for one in first["runs"]) / 2
    values = [one["value"] for one in first["runs"]]
    assert first["verdict"] == verdict(values, published_of(TOY["published"], [], "toy"))[0]
    assert code == (0 if first["verdict"] == "PASS" else 1) and first["verdict"] in said
    assert first["changed"] == []

    code, said = run(tmp_path, *toy, "seeds=3", script="scripts/reproduce.py")
    second = card(tmp_path, "toy")
    assert second["runs"][:2] == first["runs"], "they were not trained again"
    assert "3 jobs, 2 done, 1 to do" in said
    assert (tmp_path / "outputs/reproduce/toy/toy.md").read_text() == as_markdown(second)


def test_a_member_has_its_own_number_and_folder_and_what_else_was_changed_is_told(toy, tmp_path: Path) -> None:
    typed = (*toy, "optimizer.lr=0.001", "trainer.duration=1ep", "trainer.log_every=7", "seeds=3")
    code, _ = run(tmp_path, *typed, script="scripts/reproduce.py")
    found = card(tmp_path, "toy-optimizer.lr-1e-3")
    assert found["published"]["value"] == 0.9999
    assert found["changed"] == ["trainer.duration=1ep"], "neither what names the member nor what changes no result"
    assert code == (0 if found["verdict"] == "PASS" else 1)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["experiment=toy", "seeds=0"], "seeds=0 must be a number from 1 on"),
        (["experiment=toy", "seed=3"], "experiment=<name> seeds=5, without -m and seed="),
        (["seeds=3"], "it takes one recipe and a number of seeds"),
        (["experiment=schedule_yolov3"], "no number is published for experiment=schedule_yolov3"),
        (["experiment=toy", "optimizer.lr=0.1,0.2"], "optimizer.lr: several values in one run, 0.1,0.2"),
        (["experiment=toy", "search=lr_x_seeds", "seeds=2"], "8 runs for 2 seeds: a key has a list of values"),
        (["experiment=toy", "optimizer.lrr=0.1"], "type instead: optimizer.lr=0.1"),
    ],
)
def test_what_cannot_be_reproduced_is_told_before_anything_is_trained(
    typed: list[str], message: str, toy: tuple[str, ...], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*typed, *toy[1:]]) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_wrong_key_of_published_is_told() -> None:
    wrong = TOY["published"] | {"rows": ROWS, "of": "median"}
    with pytest.raises(BadConfig, match=r"toy\.yaml: published.of must be best or last, got 'median'"):
        published_of(wrong, [], "toy")
    with pytest.raises(BadConfig, match=r"for these alone:\n  model\.depth=3"):
        published_of(wrong | {"of": "last", "rows": [{"overrides": "model.depth=3", "value": 1}]}, [], "toy")


def test_the_page_of_recipes_lists_every_number_and_what_was_measured(capsys) -> None:
    assert main(["--list"]) == 0
    page = (ROOT / "docs/recipes.md").read_text()
    assert f"```\n{capsys.readouterr().out}```" in page, "paste what `python scripts/reproduce.py --list` prints"


@pytest.mark.parametrize("file", sorted(CARDS.glob("*.json")), ids=lambda file: file.stem)
def test_a_card_that_is_kept_says_what_its_runs_gave(file: Path) -> None:
    found = json.loads(file.read_text())
    values = [one["value"] for one in found["runs"]]
    recipe = yaml.safe_load((ROOT / f"conf/experiment/{found['recipe']}.yaml").read_text())
    number = published_of(recipe["published"], found["published"]["overrides"].split(), found["recipe"])
    assert vars(number) == found["published"]
    assert (found["verdict"], found["why"]) == verdict(values, number)
    assert file.with_suffix(".md").read_text() == as_markdown(found)
    assert all(text for _, text in rows_of(found))
