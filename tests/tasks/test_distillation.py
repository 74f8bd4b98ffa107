"""Distillation: the loss is the paper's, the teacher is fixed, and a run with one is killed and goes on."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from plainloop.config import compare
from plainloop.errors import BadConfig
from plainloop.run.trained.open import open_run
from plainloop.run.trained.teacher import teacher_of
from plainloop.tasks.classification import Classification
from plainloop.tasks.distillation import Distillation
from tests.harness.configs import checked
from tests.harness.runs import SMALL, differences, remains, start_config

BATCH = {"image": torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), "label": torch.tensor([0, 2, 1, 2])}
MODEL = torch.nn.Linear(6, 3)


def test_the_loss_is_the_sum_of_both_parts_in_the_words_of_the_paper() -> None:
    teacher = torch.nn.Linear(6, 3)
    task = Distillation(teacher="run", num_classes=3, temperature=3.0, alpha=0.7, teacher_model=teacher)
    loss, scalars = task.loss(MODEL, BATCH)
    with torch.no_grad():
        wanted = F.softmax(teacher(BATCH["image"]) / 3, 1)
        own = F.log_softmax(MODEL(BATCH["image"]) / 3, 1)
        soft = 9 * (wanted * (wanted.log() - own)).sum(1).mean()
        labels, _ = Classification(num_classes=3).loss(MODEL, BATCH)
    torch.testing.assert_close(scalars["teacher_loss"], soft)
    torch.testing.assert_close(loss.detach(), 0.3 * labels + 0.7 * soft)
    loss.backward()
    assert teacher.weight.grad is None


def test_without_the_teachers_share_it_is_classification() -> None:
    task = Distillation(teacher="run", num_classes=3, alpha=0.0, label_smoothing=0.1, teacher_model=MODEL)
    own = Classification(num_classes=3, label_smoothing=0.1)
    assert torch.equal(task.loss(MODEL, BATCH)[0], own.loss(MODEL, BATCH)[0])
    assert task.weight(BATCH) == own.weight(BATCH) and task.output_problem(torch.zeros(4, 3), BATCH) == ""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert start_config(checked(*SMALL, "device=cpu", "model.width=8"), folder).wait().code == 0
    return folder


def typed(teacher: Path, *overrides: str) -> tuple[str, ...]:
    return (*SMALL, "device=cpu", "task=distillation", f"task.teacher={teacher}", "augment=crop_flip", *overrides)


def test_the_teacher_sees_the_same_images_normalized_as_its_own_run_did(teacher: Path) -> None:
    images = torch.rand(3, 1, 8, 8)
    of_teacher = open_run(teacher)
    mean, std = 0.4, 0.2
    config = checked(*typed(teacher, f"data.mean=[{mean}]", f"data.std=[{std}]"))
    found = teacher_of(config, torch.device("cpu"))((images - mean) / std)
    facts = of_teacher.config["facts"]
    torch.testing.assert_close(found, of_teacher.model((images - facts["mean"][0]) / facts["std"][0]))


def test_a_distilled_run_that_is_cut_ends_with_the_same_bits_and_its_checkpoint_has_no_teacher(
    tmp_path: Path, teacher: Path
) -> None:
    config = checked(*typed(teacher))
    assert start_config(config, tmp_path / "whole").wait().code == 0
    assert start_config(config, tmp_path / "cut").wait().code == 0
    for path in (tmp_path / "cut" / "checkpoints").glob("step_00000010*"):
        path.unlink()
    assert start_config(config, tmp_path / "cut").wait().code == 0
    whole = remains(tmp_path / "whole")
    assert differences(whole, remains(tmp_path / "cut")) == []
    assert set(whole["state"]["model"]) == set(open_run(tmp_path / "whole").model.state_dict())
    plain = checked(*SMALL, "device=cpu", "augment=crop_flip")
    assert start_config(plain, tmp_path / "plain").wait().code == 0
    assert "state.model.fc.weight" in differences(whole, remains(tmp_path / "plain"))  # the teacher did count


def test_a_run_goes_on_with_the_same_teacher_elsewhere_and_never_with_another(tmp_path: Path, teacher: Path) -> None:
    import shutil

    before = checked(*typed(teacher))
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    compare.check(compare.differences(before, now := checked(*typed(moved))), now, step=1, schedules=lambda: None)
    (moved / "best.safetensors").write_bytes((teacher / "last.safetensors").read_bytes() + b" ")
    now = checked(*typed(moved))
    with pytest.raises(BadConfig, match=r"facts\.teacher"):
        compare.check(compare.differences(before, now), now, step=1, schedules=lambda: None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.only_classes=[1,2]"], "was trained with other classes (10: 0, 1, 2, 3...; here 2: 1, 2)"),
        (["task.teacher=/nowhere"], "is no finished run: /nowhere does not exist"),
        (["task.alpha=2"], "must be 0 (the labels alone) to 1"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_starts(
    teacher: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(Exception, match=re.escape(message)):
        checked(*typed(teacher, *overrides))


def test_a_teacher_of_other_images_is_refused(teacher: Path) -> None:
    with pytest.raises(Exception, match=re.escape("other images (1x8x8; here 1x28x28)")):
        checked("task=distillation", f"task.teacher={teacher}", "data=fashion_mnist")
