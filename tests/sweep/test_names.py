"""A name is a name: none of forty hostile ones leads a job out of its sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from plainloop.config.compose.composer import Composer
from plainloop.config.explain.problems import InvalidConfig
from plainloop.sweep.check import check_sweep
from plainloop.sweep.index import folder_problem, stays_inside
from tests.harness.configs import ROOT

HOSTILE = (
    *("", ".", "..", "../x", "a/../../x", "a/..", "/tmp/x", "//x", "a//b", "./x", "a/./b", "a/", "~", "~root/x", "~/x"),
    *("$(touch x)", "`touch x`", "${HOME}", "$HOME", "a;b", "a|b", "a&b", "a>b", "a<b", "a*b", "a?b", "a'b", 'a"b'),
    *("a\\b", "a\nb", "a\tb", "a\0b", "a\x1b[31mb", "a\u202eb", "-rf", "--", " a", "a ", "a.", ".hydra", ".ssh/x"),
    *("x" * 300, "é" * 150, "jobs.jsonl", "multirun.yaml", "run.lock", "results.csv/x"),
)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_no_folder_of_a_job(name: str) -> None:
    assert folder_problem(name)


def outcome_of(composer: Composer, folder: Path, *typed: str) -> list[Path] | str:
    """The folders of a sweep's jobs, or why it is refused."""
    try:
        found = check_sweep(composer, [*typed, f"hydra.sweep.dir={folder}/sweep"])
    except InvalidConfig as error:
        return str(error)
    return [job.folder for job in found.jobs]


KEYS = ("name", "hydra.sweep.subdir", "hydra.job.name")


@pytest.mark.parametrize("key", KEYS)
def test_some_hostile_names_are_refused_with_what_can_be_shown_or_stay_inside(key: str, tmp_path: Path) -> None:
    """Both as they are typed and quoted, whatever Hydra's grammar makes of them."""
    names = (*HOSTILE[1::6], "${HOME}")
    refused, composer = 0, Composer(ROOT / "conf")
    for name in names:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        for value in (name, f'"{escaped}"'):
            found = outcome_of(composer, tmp_path, f"{key}={value}")
            refused += isinstance(found, str)
            if isinstance(found, str):
                assert all(line.isprintable() for line in found.split("\n")), ascii(found)
            else:
                assert all(stays_inside(folder, tmp_path / "sweep") for folder in found), (name, found)
    assert refused >= len(names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["0", "optimizer=sgd,seed=1", "lr 0.1/seed 2", "größe=1", "a.b+c@d", "x" * 200])
def test_an_honest_name_is_one(name: str) -> None:
    assert folder_problem(name) == ""


def test_joined_without_a_look_some_of_them_would_lead_out(tmp_path: Path) -> None:
    escaped = [name for name in HOSTILE if "\0" not in name and not stays_inside(tmp_path / name, tmp_path)]
    assert {"../x", "/tmp/x", "a/../../x", "..", ".", ""} <= set(escaped)


def test_a_link_inside_the_sweep_does_not_lead_out_either(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "0").symlink_to(tmp_path)
    assert not stays_inside(tmp_path / "sweep" / "0" / "x", tmp_path / "sweep")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hydra.sweep.subdir", "../../escaped"),
        ("hydra.sweep.subdir", "/tmp/escaped"),
        ("hydra.sweep.subdir", "'a\\tb'"),
        ("hydra.sweep.subdir", "'${hydra.job.override_dirname}/../..'"),
        ("hydra.job.name", "../../escaped"),
        ("hydra.output_subdir", "../../escaped"),
    ],
)
def test_a_sweep_that_would_write_elsewhere_is_refused_before_anything_exists(
    key: str, value: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfig, match=key):
        check_sweep(Composer(ROOT / "conf"), ["seed=0,1", f"{key}={value}", f"hydra.sweep.dir={tmp_path}/sweep"])
    assert list(tmp_path.iterdir()) == []


def test_names_made_of_overrides_are_folders_below_the_sweep_also_where_the_name_is_swept(tmp_path: Path) -> None:
    found = check_sweep(
        Composer(ROOT / "conf"),
        ["name=a,b", "seed=1", "hydra.sweep.subdir=${hydra.job.override_dirname}", f"hydra.sweep.dir={tmp_path}/s"],
    )
    assert [job.folder for job in found.jobs] == [tmp_path / "s" / f"name={name},seed=1" for name in "ab"]
