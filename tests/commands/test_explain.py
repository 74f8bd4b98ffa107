"""Where a value comes from: the file and line that wrote it, what chose that file, what it refers to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plainloop.commands.explain import main
from tests.harness.configs import ROOT
from tests.harness.runs import SMALL, train


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def line_of(file: str, start: str) -> str:
    number = next(
        n for n, line in enumerate((ROOT / file).read_text().splitlines(), 1) if line.lstrip().startswith(start)
    )
    return f"{file}:{number}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("optimizer.lr",), ["optimizer.lr = 0.001", line_of("conf/optimizer/adamw.yaml", "lr:")]),
        (("seed=3", "seed"), ["seed = 3", "command line: seed=3", line_of("conf/train.yaml", "seed:")]),
        (
            ("scheduler.warmup",),
            [line_of("conf/scheduler/cosine_warmup.yaml", "warmup:"), line_of("conf/scheduler/cosine.yaml", "warmup:")],
        ),
        (
            ("scheduler.total_steps",),
            ["${trainer.duration}", "  trainer.duration = 30ep", line_of("conf/trainer/default.yaml", "duration:")],
        ),
        (("trainer.duration",), ["that is 660 optimizer steps; one epoch has 22"]),
        (("data.val.batch_size",), ["${..batch_size}", "  data.batch_size = 64"]),
        (("model.num_classes",), ["${facts.num_classes}", "facts.num_classes = 10"]),
        (
            ("model",),
            [
                f"model=tiny   chosen by {line_of('conf/train.yaml', '- model')}",
                line_of("conf/model/tiny.yaml", "width:"),
            ],
        ),
        (("model=resnet20", "model"), ["model=resnet20   chosen by command line override model=resnet20"]),
        (("experiment=fashion_mnist_resnet20_re", "model"), ["model=resnet20   chosen by conf/experiment/"]),
        (
            ("trainer.lr_scaling.rule=linear", "optimizer.lr"),
            ["the run's rate is 0.001 x 64 / 256 = 0.00025, by trainer.lr_scaling.rule=linear"],
        ),
        (("+logger.wandb.api_key=hunter2hunter2", "logger.wandb.api_key"), ["***"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_value_is_followed_to_where_it_was_written(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: list[str]
) -> None:
    out = explained(capsys, *words)
    assert [text for text in said if text not in out] == []
    assert "hunter2" not in out


def test_the_line_that_counts_comes_first_and_the_others_are_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(
        capsys, "experiment=cifar10_resnet20", "optimizer.lr=0.3", "optimizer.lr", "data=digits"
    ).splitlines()
    places = [re.split(r"\s{2,}", line.strip())[:2] for line in lines[1:4]]
    assert [value for value, _ in places] == ["0.3", "0.1", "0.1"]
    assert places[0][1] == "command line: optimizer.lr=0.3"
    assert places[1][1].startswith(line_of("conf/experiment/cifar10_resnet20.yaml", "lr:"))
    assert places[2][1].startswith(line_of("conf/optimizer/sgd.yaml", "lr:"))


def test_a_runs_command_is_explained_beside_what_the_run_has_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *SMALL, "trainer.eval_every=never", "hydra.run.dir=run").code == 0
    out = explained(capsys, f"run={tmp_path / 'run'}", "model.width")
    assert "model.width = 4" in out and "command line: model.width=4" in out
    assert out.splitlines()[-1] == "  the run has 4"
    saved = tmp_path / "run" / "config.yaml"
    saved.write_text(saved.read_text().replace("width: 4", "width: 5"))
    assert "the run has 5   today the same command would have another value" in explained(
        capsys, f"run={tmp_path / 'run'}", "model.width"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.lrr"], "next: type optimizer.lr\n"),
        (["optimizer.zzz"], "next: type optimizer\n"),
        (["optimizer=sgd"], "no key was given"),
        (["optimizer=sdg", "optimizer.lr"], "type instead: optimizer=sgd"),
        (
            ["run=nowhere", "seed"],
            "nowhere has no config.yaml: it is no run directory\nnext: a run directory holds config.yaml",
        ),
        (["-m", "seed"], "-m is for train.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_with_what_to_type(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(words) == 64
    assert said in capsys.readouterr().err


def test_a_config_that_the_check_refuses_is_explained_as_far_as_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trainer.duration=3", "trainer.duration"]) == 0
    said = capsys.readouterr()
    assert "trainer.duration = 3" in said.out and "type instead: trainer.duration=3ep" in said.err
