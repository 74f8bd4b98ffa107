"""What a constructor refuses is refused by the check, under the key that the person knows."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from plainloop.config.check.check import CheckCache, check
from plainloop.config.compose.origin import Origin
from plainloop.run_dir.weights import save_weights
from tests.harness.commands import COMPOSER, passed, problems


@pytest.mark.parametrize(
    ("typed", "key", "got", "instead"),
    [
        ("optimizer.betas=[2,2]", "optimizer.betas", "[2,2]", "optimizer.betas=[0.9,0.999]"),
        ("optimizer.eps=-1", "optimizer.eps", "-1", "optimizer.eps=1.0e-8"),
        ("optimizer=lion optimizer.betas=[3,3]", "optimizer.betas", "[3,3]", "optimizer.betas=[0.9,0.99]"),
        (
            "optimizer=sgd optimizer.momentum=0 optimizer.nesterov=true",
            "optimizer.nesterov",
            "true",
            "optimizer.nesterov=false",
        ),
        ("optimizer=timm optimizer.opt=sgdd", "optimizer.opt", "sgdd", "optimizer.opt=sgd"),
        ("optimizer=timm +optimizer.betaz=3", "optimizer.betaz", "3", "leave +optimizer.betaz=3 out"),
        ("augment=crop_flip augment.flip.p=2", "augment.flip.p", "2", "augment.flip.p=0.5"),
        ("augment=crop_flip augment.crop.pad=-3", "augment.crop.pad", "-3", "augment.crop.pad=4"),
        ("augment=crop_flip augment.crop.pad=100", "augment.crop.pad", "100", "augment.crop.pad=4"),
        ("augment=standard augment.crop.scale=[1,0.1]", "augment.crop.scale", "[1,0.1]", "augment.crop.scale=[0.08,1]"),
        ("task.class_weights=[0,1,1,1,1,1,1,1,1,1]", "task.class_weights", "[0,1,1,1,1,1,1,1,1,1]", "=null"),
        ("logger=wandb logger.wandb.project=a/b", "logger.wandb.project", "a/b", "logger.wandb.project=plainloop"),
        ("logger=wandb logger.wandb.tags=['']", "logger.wandb.tags", "[]", "logger.wandb.tags=[]"),
        ("model.drop_rate=2", "model.drop_rate", "2", "model.drop_rate=0.0"),
        ("model.width=0", "model.width", "0", "model.width=16"),
        ("model.width=-1", "model.width", "-1", "model.width=16"),
        ("model.stem_stride=0", "model.stem_stride", "0", "model.stem_stride=1"),
        ("trainer.param_groups.no_decay=[nothing*]", "trainer.param_groups.no_decay", "[nothing*]", "no_decay=[]"),
        ("trainer.param_groups.layer_decay=0.5", "trainer.param_groups.layer_decay", "0.5", "layer_decay=null"),
        ("scheduler=exponential scheduler.gamma=1e300", "scheduler.gamma", "1e+300", "scheduler.gamma=0.95"),
    ],
)
def test_a_value_that_its_part_refuses_is_told_with_a_value_that_it_takes(
    typed: str, key: str, got: str, instead: str
) -> None:
    found = problems(*typed.split())
    assert found.keys() == {key}
    assert found[key].got == got
    assert found[key].instead.endswith(instead)
    given = next(text for text in typed.split() if text.lstrip("+").startswith(f"{key}="))
    assert found[key].given_by == f"command line override {given}"


def test_a_schedule_that_cycles_what_the_optimizer_lacks_says_how_to_stop_it() -> None:
    found = problems("optimizer=adadelta", "scheduler=onecycle")
    assert found.keys() == {"scheduler.cycle_momentum"}
    assert found["scheduler.cycle_momentum"].given_by.startswith("conf/scheduler/onecycle.yaml:")
    assert found["scheduler.cycle_momentum"].instead == "scheduler.cycle_momentum=false"
    passed("optimizer=adadelta", "scheduler=onecycle", "scheduler.cycle_momentum=false")


@pytest.mark.parametrize("scheduler", ["cyclic", "cyclic trainer.eval_every=never"])
def test_a_share_of_a_short_run_is_no_length_of_zero_steps(scheduler: str) -> None:
    found = problems(*f"scheduler={scheduler} trainer.duration=3st".split())
    assert found.keys() == {"scheduler.step_size_up"}
    assert found["scheduler.step_size_up"].instead == "scheduler.step_size_up=1st"
    passed("scheduler=cyclic", "trainer.duration=3st", "scheduler.step_size_up=1st")


def test_a_trial_leaves_generators_and_the_disk_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    passed("augment=crop_flip", "logger=[csv,wandb]", "seed=91")
    assert torch.equal(state, torch.get_rng_state())
    assert os.listdir(tmp_path) == []


def test_what_runs_in_workers_is_built_and_not_tried_on_a_batch(tmp_path: Path) -> None:
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        for number in range(4):
            file = tmp_path / split / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(file)
    large = "{_target_:plainloop.augment.per_sample.PerSample,transform:"
    large = f"+augment.large={large}{{_target_:torchvision.transforms.v2.RandomCrop,size:500}}}}"
    assert problems(large).keys() == {"augment.large.transform.size"}
    folder = ("data=image_folder", f"data.root={tmp_path}", "data.image_size=32", "data.batch_size=4")
    assert problems(large, *folder) == {}
    wrong = large.replace("RandomCrop,size:500", "ColorJitter,brightness:-1")
    assert problems(wrong, *folder).keys() == {"augment.large.transform.brightness"}


def test_jobs_of_a_sweep_share_what_does_not_differ() -> None:
    cache = CheckCache()
    for job in range(3):
        origin = Origin([f"optimizer.lr=0.{job + 1}"], composer=COMPOSER)
        check(COMPOSER.compose(origin.overrides), origin=origin, cache=cache)
    assert len(cache.dry_run.refusals) == 4 + 3  # task, loggers, data and weights once, three optimizers
    assert set(cache.dry_run.refusals.values()) == {None}


# Initial weights


def save_tiny(path: Path, **settings: int) -> Path:
    from plainloop.models.tiny import TinyNet

    model = TinyNet(**{"num_classes": 10, "in_chans": 1, "width": 16} | settings)
    if path.suffix == ".safetensors":
        save_weights(model, path)
    else:
        torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_initial_weights_that_fit_pass_and_those_of_another_model_do_not(tmp_path: Path, name: str) -> None:
    path = save_tiny(tmp_path / name)
    passed(f"init_from={path}")
    found = problems(f"init_from={path}", "model.width=8")
    assert found.keys() == {"init_from"}
    assert "another model" in found["init_from"].what
    assert found["init_from"].given_by == f"command line override init_from={path}"
    assert found["init_from"].instead


def test_another_number_of_classes_is_a_new_head(tmp_path: Path) -> None:
    passed(f"init_from={save_tiny(tmp_path / 'w.safetensors', num_classes=7)}")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_initial_weights_that_are_damaged_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights")
    found = problems(f"init_from={tmp_path / name}")
    assert found.keys() == {"init_from"}
    assert "damaged" in found["init_from"].what


@pytest.mark.parametrize(
    ("name", "what"), [("absent.pth", "does not exist"), ("notes.txt", "must end in"), ("folder", "holds neither")]
)
def test_initial_weights_that_are_not_there_are_told_without_torch(
    tmp_path: Path, name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("plainloop.config.check.check.dry_run", lambda *_, **__: pytest.fail("torch was not needed"))
    found = problems(f"init_from={tmp_path / name}")
    assert found.keys() == {"init_from"}
    assert what in found["init_from"].what
    assert found["init_from"].got == str(tmp_path / name)
    assert found["init_from"].given_by == f"command line override init_from={tmp_path / name}"
    assert found["init_from"].instead
