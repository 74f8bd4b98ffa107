"""Wrong overrides, all at once, each with what to type instead."""

import itertools
import random
from pathlib import Path

import pytest

from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import Problem
from plainloop.config.explain.suggest import nearest, nearest_key
from plainloop.config.nodes import key_paths
from tests.harness.commands import ROOT


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(ROOT / "conf")


def explained(composer: Composer, *overrides: str) -> dict[str, Problem]:
    return {problem.key: problem for problem in composer.compose_or_explain(overrides).problems}


def typos(word: str, seed: int) -> list[str]:
    """One of each kind: a letter put in, left out, changed, two swapped."""
    draw = random.Random(f"{word}{seed}")
    letters = [i for i, letter in enumerate(word) if letter.isalpha()]
    at = draw.choice(letters)
    other = draw.choice([c for c in "abcdefghijklmnopqrstuvwxyz" if c != word[at]])
    made = [word[:at] + other + word[at:], word[:at] + word[at + 1 :], word[:at] + other + word[at + 1 :]]
    pairs = [i for i in letters if i + 1 < len(word) and word[i + 1].isalpha() and word[i] != word[i + 1]]
    if pairs:
        at = draw.choice(pairs)
        made.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    return made


def test_one_edit_typos_of_every_key_lead_back_to_it(composer: Composer) -> None:
    keys = [key for key in key_paths(composer.compose([])) if key.split(".")[0] != "hydra"]
    first = third = total = 0
    for key, seed in itertools.product(keys, range(2)):
        for typo in typos(key, seed):
            if typo in keys or typo.startswith(".") or typo.endswith("."):
                continue
            found = nearest_key(typo, keys)
            total, first, third = total + 1, first + (found[:1] == [key]), third + (key in found)
    assert total > 300
    assert (first / total >= 0.95, third / total >= 0.99) == (True, True), (first / total, third / total)


def test_what_is_told_of_a_typo_is_the_key_that_was_meant(composer: Composer) -> None:
    """As a person reads it: through the parser, the words of other codes, and the message."""
    keys = [key for key in key_paths(composer.compose([])) if key.split(".")[0] != "hydra"]
    groups = {*composer.groups, *(other.partition(".")[0] for other in keys)}
    meant = {typo: key for key in keys for typo in typos(key, 7) if typo not in keys and typo not in groups}
    found = {problem.key: problem for problem in composer.compose_or_explain([f"{typo}=1" for typo in meant]).problems}
    right = [typo for typo, key in meant.items() if found[typo].meant == key or f"`{key}`" in found[typo].what]
    assert len(meant) > 150
    assert len(right) / len(meant) >= 0.95, [(t, meant[t], found[t].lines()) for t in meant if t not in right]


def test_one_edit_typos_of_every_option_lead_back_to_it(composer: Composer) -> None:
    first = third = total = 0
    for group, options in composer.groups.items():
        for option, seed in itertools.product(options, range(2)):
            for typo in typos(option, seed):
                if group.startswith("hydra/") or typo in options:
                    continue
                found = nearest(typo, options)
                total, first, third = total + 1, first + (found[:1] == [option]), third + (option in found)
    assert total > 150
    assert (first / total >= 0.95, third / total >= 0.99) == (True, True), (first / total, third / total)


def test_nothing_far_away_is_suggested(composer: Composer) -> None:
    names = [option for options in composer.groups.values() for option in options]
    keys = key_paths(composer.compose([]))
    for word in ("xyzzy", "foo", "transformer9000", "q", "optometrist", "trainer.colour"):
        assert nearest(word, names) == [] and nearest_key(word, keys) == []


def test_an_unknown_key_names_the_nearest_and_the_valid_ones(composer: Composer) -> None:
    found = explained(composer, "optimizer.weight_dekay=0.1")["optimizer.weight_dekay"]
    assert (found.what, found.meant) == ("unknown key", "optimizer.weight_decay")
    assert found.instead == "optimizer.weight_decay=0.1"
    assert "betas" in found.notes[0]


def test_all_wrong_overrides_are_found_at_once_and_the_rest_composes(composer: Composer) -> None:
    typed = ["optimizer=sdg", "trainer.acumulate=2", "foo", "sede=1", "model.depth.x=3", "optimizer.lr=[1,2", "seed=5"]
    composed = composer.compose_or_explain(typed)
    assert {p.key for p in composed.problems} == {
        "optimizer", "trainer.acumulate", "foo", "sede", "model.depth.x", "optimizer.lr"
    }  # fmt: skip
    assert composed.config is not None
    assert composed.config.seed == 5


def test_options_that_do_not_exist_name_the_nearest(composer: Composer) -> None:
    found = explained(composer, "optimizer=sdg", "hydra/launcher=submitit_slrum")
    assert found["optimizer"].meant == "optimizer=sgd"
    assert found["hydra/launcher"].meant == "hydra/launcher=submitit_slurm"


def test_a_misspelt_group_names_the_group(composer: Composer) -> None:
    assert explained(composer, "optimiser=sgd")["optimiser"].instead == "optimizer=sgd"
    assert explained(composer, "schedular=cosine")["schedular"].instead == "scheduler=cosine"


def test_a_key_without_its_group_is_found(composer: Composer) -> None:
    assert explained(composer, "gamma=0.1", "scheduler=multistep")["gamma"].meant.startswith("scheduler.gamma")
    assert explained(composer, "lr=0.1")["lr"].instead == "optimizer.lr=0.1"


def test_several_values_without_m_are_no_value(composer: Composer) -> None:
    found = explained(composer, "optimizer=sgd,adamw", "seed=1,2")
    assert found["optimizer"].instead == "-m optimizer=sgd,adamw for a sweep, or optimizer=[sgd,adamw] for a list"
    assert found["seed"].instead.startswith("-m seed=1,2")


def test_options_are_names_and_not_numbers(composer: Composer) -> None:
    assert explained(composer, "optimizer=3")["optimizer"].what == "there is no option 3"
    assert explained(composer, "debug=nan")["debug"].meant == "debug=nan"
    assert explained(composer, *composer.as_names(["debug=nan"])) == {}


def test_one_group_takes_one_option_and_loggers_several(composer: Composer) -> None:
    assert explained(composer, "optimizer=[sgd,adamw]")["optimizer"].what == "takes one option"
    assert explained(composer, "logger=[csv,wandb]") == {}


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("+augment=crop_flip", "augment=[none,crop_flip] for both, or augment=crop_flip"),
        ("++augment=crop_flip", "augment=[none,crop_flip] for both, or augment=crop_flip"),
        ("+logger=[csv,wandb]", "logger=[jsonl,csv,wandb] for both, or logger=[csv,wandb]"),
        ("+optimizer=sgd", "optimizer=sgd"),
        ("+experiment=fashion_mnist_quick", "experiment=fashion_mnist_quick"),
        ("+hydra/launcher=gpu_pool", "hydra/launcher=gpu_pool"),
        ("~augment", "augment=none"),
        ("~logger", "logger=none"),
        ("augment=[]", "augment=none"),
        ("logger=", "logger=none"),
        ("augment=null", "augment=none"),
        ("optimizer=", "optimizer=adamw"),
        ("~optimizer", "optimizer=adamw"),
        ("~model=tiny", "model=tiny"),
        ("model=null", "model=tiny"),
        ("experiment=", "leave experiment= out"),
    ],
)
def test_a_group_has_one_place_and_an_option(composer: Composer, typed: str, instead: str) -> None:
    group = typed.lstrip("+~").partition("=")[0]
    found = explained(composer, typed)
    assert found.keys() == {group}
    assert (found[group].instead, found[group].given_by) == (instead, f"command line override {typed}")


def test_a_second_augmentation_is_joined_to_the_one_that_was_typed(composer: Composer) -> None:
    found = explained(composer, "augment=standard", "+augment=first_batch")["augment"]
    assert found.instead == "augment=[standard,first_batch] for both, or augment=first_batch"


def test_what_is_left_out_by_default_may_be_left_out(composer: Composer) -> None:
    assert explained(composer, "~experiment", "~debug", "~search") == {}


def test_adding_a_new_root_key_is_refused(composer: Composer) -> None:
    assert {p.key: p for p in composer.compose_or_explain(["+lr=0.1"]).problems}["lr"].instead == "optimizer.lr=0.1"


def test_options_of_an_own_package_are_options(composer: Composer, tmp_path: Path) -> None:
    """Folders of hydra.searchpath count for suggestions and for places in files, and are forgotten again."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: my_package.Net\nwidth: 8\n")
    search = f"hydra.searchpath=[file://{tmp_path}]"
    assert explained(composer, search, "model=mine") == {}
    assert explained(composer, search, "model=mne")["model"].meant == "model=mine"
    place = Origin([search, "model=mine"], composer=composer).written("model.width")
    assert str(place) == f"{tmp_path}/model/mine.yaml:2"
    assert explained(composer, "model=mine")["model"].what == "there is no option 'mine'"


def test_removing_what_is_not_there_is_refused(composer: Composer) -> None:
    assert explained(composer, "~optimizer.foo").keys() == {"optimizer.foo"}
    assert explained(composer, "~optimizer.betas") == {}
