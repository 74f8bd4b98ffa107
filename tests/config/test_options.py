"""Groups that are given more than once, and packages that are nobody's own."""

import pytest

from tests.harness.commands import COMPOSER, passed, problems


@pytest.mark.parametrize(
    ("typed", "key", "instead"),
    [
        ("debug=nan debug=overfit", "debug", "debug=[nan,overfit]"),
        ("logger=csv logger=[jsonl,wandb]", "logger", "logger=[csv,jsonl,wandb]"),
    ],
)
def test_two_options_of_a_group_of_several_things_are_told_as_one_list(typed: str, key: str, instead: str) -> None:
    found = problems(*typed.split())
    assert found.keys() == {key}
    assert found[key].got == typed
    assert found[key].given_by == f"command line override {typed.split()[-1]}"
    assert found[key].instead == instead


def test_the_list_that_is_suggested_is_right_and_takes_all_of_it() -> None:
    both = passed("debug=[nan,overfit]").config
    assert (both["name"], both["trainer"]["detect_anomaly"], both["trainer"]["duration"]) == ("overfit", True, "300st")


def test_of_another_group_and_of_a_value_the_last_counts() -> None:
    assert passed("model=tiny", "model=resnet20").config["model"]["depth"] == 20
    assert passed("model=tiny", "model=tiny", "seed=1", "seed=2").config["seed"] == 2


def test_names_that_hydra_would_take_for_numbers_are_quoted_and_no_others() -> None:
    typed = ["debug=nan", "debug=[overfit,nan]", "debug=nan,overfit", "name=nan", "optimizer.lr=nan", "debug", "~debug"]
    quoted = ["debug='nan'", "debug=[overfit,'nan']", "debug='nan',overfit"]
    assert COMPOSER.as_names(typed) == [*quoted, *typed[3:]]


@pytest.mark.parametrize("package", ["torch", "os", "builtins", "subprocess", "sys", "numpy", "timm", "plainloop"])
def test_what_is_everybodys_is_no_plugin(package: str) -> None:
    found = problems(f"plugins=[{package},my_package]", f"optimizer._target_={package}.load")
    assert found.keys() == {"plugins", "optimizer._target_"}
    assert found["plugins"].got == package
    assert found["plugins"].given_by == f"command line override plugins=[{package},my_package]"
    assert found["plugins"].instead == "plugins=[my_package]"
    assert found["optimizer._target_"].notes == ()


def test_plugins_are_suggested_for_a_persons_own_package_alone() -> None:
    assert "plugins=[my_package]" in problems("optimizer._target_=my_package.Lion")["optimizer._target_"].notes[0]
    for target in ("torch.load", "os.system", "builtins.eval", "numpy.load"):
        found = problems(f"optimizer._target_={target}")["optimizer._target_"]
        assert found.notes == ()
        assert found.instead == "optimizer._target_=torch.optim.AdamW"
