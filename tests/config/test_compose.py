"""Wrong overrides, all at once, each with what to type instead."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import Problem
from plainloop.config.explain.suggest import nearest, nearest_key
from plainloop.config.nodes import key_paths
from tests.harness.commands import ROOT, passed, problems


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


def test_options_are_names_and_not_numbers(composer: Composer) -> None:
    assert explained(composer, "optimizer=3")["optimizer"].what == "there is no option 3"
    assert explained(composer, "debug=nan")["debug"].meant == "debug=nan"
    assert explained(composer, *composer.as_names(["debug=nan"])) == {}


def test_one_group_takes_one_option_and_loggers_several(composer: Composer) -> None:
    assert explained(composer, "optimizer=[sgd,adamw]")["optimizer"].what == "takes one option"
    assert explained(composer, "logger=[csv,wandb]") == {}


def test_what_is_left_out_by_default_may_be_left_out(composer: Composer) -> None:
    assert explained(composer, "~experiment", "~debug", "~search") == {}


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


def test_of_another_group_and_of_a_value_the_last_counts() -> None:
    assert passed("model=tiny", "model=resnet20").config["model"]["depth"] == 20
    assert passed("model=tiny", "model=tiny", "seed=1", "seed=2").config["seed"] == 2


def test_names_that_hydra_would_take_for_numbers_are_quoted_and_no_others(composer: Composer) -> None:
    typed = ["debug=nan", "debug=[overfit,nan]", "debug=nan,overfit", "name=nan", "optimizer.lr=nan", "debug", "~debug"]
    quoted = ["debug='nan'", "debug=[overfit,'nan']", "debug='nan',overfit"]
    assert composer.as_names(typed) == [*quoted, *typed[3:]]


@pytest.mark.parametrize("package", ["torch", "os", "builtins", "subprocess", "sys", "numpy", "timm", "plainloop"])
def test_what_is_everybodys_is_no_plugin(package: str) -> None:
    found = problems(f"plugins=[{package},my_package]", f"optimizer._target_={package}.load")
    assert found.keys() == {"plugins", "optimizer._target_"}
    assert (found["plugins"].got, found["plugins"].instead) == (package, "plugins=[my_package]")
    assert found["optimizer._target_"].notes == ()


def test_plugins_are_suggested_for_a_persons_own_package_alone() -> None:
    assert "plugins=[my_package]" in problems("optimizer._target_=my_package.Lion")["optimizer._target_"].notes[0]
    for target in ("torch.load", "os.system", "builtins.eval", "numpy.load"):
        found = problems(f"optimizer._target_={target}")["optimizer._target_"]
        assert (found.notes, found.instead) == ((), "optimizer._target_=torch.optim.AdamW")


@pytest.mark.parametrize(
    ("typed", "instead"),
    [("augment=[crop_flip,]", "augment=[crop_flip]"), ("augment=[,mixup,,cutout]", "augment=[mixup,cutout]")],
)
def test_an_empty_value_in_a_list_is_left_out_in_what_is_to_be_typed(typed: str, instead: str) -> None:
    found = problems(typed)["augment"]
    assert (found.what, found.instead) == ("has an empty value in its list", instead)
    assert problems(instead) == {}


@pytest.mark.parametrize(
    ("free", "names", "wrong"),
    [
        ("task.losses", ("size", "class"), "task.measure"),
        ("trainer.param_groups.lr_scale", ("classifier",), "trainer.freeze"),
    ],
)
def test_names_below_a_key_that_has_none_need_no_plus(free: str, names: tuple[str, ...], wrong: str) -> None:
    node: Any = passed("experiment=detection_quick", *(f"{free}.{name}=0.5" for name in names)).config
    for part in free.split("."):
        node = node[part]
    assert node == dict.fromkeys(names, 0.5)
    assert problems("experiment=detection_quick", f"{wrong}.size=1")[f"{wrong}.size"].what == "unknown key"
