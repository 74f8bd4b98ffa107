"""What the check says of data, folders and weights; it leaves all of them, and the generators, as they were."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from plainloop.config.check.check import CheckCache, check
from plainloop.config.compose.origin import Origin
from plainloop.models.tiny import TinyNet
from plainloop.run_dir.weights import save_weights
from tests.harness.commands import COMPOSER, passed, problems


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes, 8 images to train on and 4 to validate on."""
    for (split, count), name in itertools.product((("train", 4), ("val", 2)), ("cat", "dog")):
        (tmp_path / "pets" / split / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32)).save(tmp_path / "pets" / split / name / f"{number}.png")
    return tmp_path / "pets"


def test_a_folder_of_images_is_looked_at_and_not_decoded(pets: Path) -> None:
    config = passed("data=image_folder", f"data.root={pets}", "data.batch_size=4", "data.image_size=32").config
    assert (config["facts"]["num_train"], config["facts"]["num_val"]) == (8, 4)
    assert config["facts"]["class_names"] == ["cat", "dog"]
    assert config["model"]["num_classes"] == 2
    assert problems("data=image_folder", f"data.root={pets / 'no'}")["data.root"].got == str(pets / "no")
    (pets / "bad.csv").write_text("no.jpg,cat\n")
    (problem,) = problems("data=image_folder", f"data.root={pets}", "data.labels=bad.csv").values()
    assert problem.key == "data.labels" and problem.what.startswith(f"{pets}/bad.csv has 1 bad row: line 1: no.jpg")


def test_what_runs_in_workers_is_built_and_not_tried_on_a_batch(pets: Path) -> None:
    large = "{_target_:plainloop.augment.per_sample.PerSample,transform:"
    large = f"+augment.large={large}{{_target_:torchvision.transforms.v2.RandomCrop,size:500}}}}"
    assert problems(large).keys() == {"augment.large.transform.size"}
    folder = ("data=image_folder", f"data.root={pets}", "data.image_size=32", "data.batch_size=4")
    assert problems(large, *folder) == {}
    wrong = large.replace("RandomCrop,size:500", "ColorJitter,brightness:-1")
    assert problems(wrong, *folder).keys() == {"augment.large.transform.brightness"}


@pytest.mark.parametrize("where", ["plain", "plain/deep/run", "link", "x" * 300])
def test_a_folder_that_cannot_be_written_is_found_before_it_is_made(tmp_path: Path, where: str) -> None:
    (tmp_path / "plain").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        typed = f"{key}={tmp_path / where}"
        found = problems(typed, folder=tmp_path / where)
        assert found.keys() == {key}
        assert "is no folder" in found[key].what or "255 bytes" in found[key].what
        assert found[key].given_by == f"command line override {typed}"
    assert problems(folder=tmp_path / "new" / "runs") == {}
    assert sorted(os.listdir(tmp_path)) == ["link", "plain"]


# The dry run


def test_a_dry_run_leaves_generators_and_the_disk_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    passed("augment=crop_flip", "logger=[csv,wandb]", "seed=91")
    assert torch.equal(state, torch.get_rng_state())
    assert os.listdir(tmp_path) == []


def test_jobs_of_a_sweep_share_what_does_not_differ() -> None:
    cache = CheckCache()
    for job in range(3):
        origin = Origin([f"optimizer.lr=0.{job + 1}"], composer=COMPOSER)
        check(COMPOSER.compose(origin.overrides), origin=origin, cache=cache)
    assert len(cache.refusals) == 4 + 3  # task, loggers, data and weights once, three optimizers
    assert set(cache.refusals.values()) == {None}


def save_tiny(path: Path, **settings: int) -> Path:
    model = TinyNet(**{"num_classes": 10, "in_chans": 1, "width": 16} | settings)
    save_weights(model, path) if path.suffix == ".safetensors" else torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_initial_weights_that_fit_pass_and_others_do_not(tmp_path: Path, name: str) -> None:
    path = save_tiny(tmp_path / name)
    passed(f"init_from={path}")
    found = problems(f"init_from={path}", "model.width=8")
    assert found.keys() == {"init_from"}
    assert "another model" in found["init_from"].what
    assert found["init_from"].given_by == f"command line override init_from={path}"
    assert found["init_from"].instead
    passed(f"init_from={save_tiny(tmp_path / f'of_7_classes_{name}', num_classes=7)}")  # a new head
    damaged = tmp_path / f"damaged_{name}"
    damaged.write_bytes(b"no weights")
    assert "damaged" in problems(f"init_from={damaged}")["init_from"].what


@pytest.mark.parametrize(
    ("name", "what"), [("absent.pth", "does not exist"), ("notes.txt", "must end in"), ("folder", "holds neither")]
)
def test_initial_weights_that_are_not_there_are_told(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    found = problems(f"init_from={tmp_path / name}")["init_from"]
    assert what in found.what
    assert str(tmp_path / name) in found.what
    assert found.instead


@pytest.mark.parametrize(
    ("typed", "what"),
    [
        (["data=digit_scenes"], "reads 'label' of each batch, and the data give image, mask, index"),
        (["task=segmentation", "model=tiny_seg"], "reads 'mask' of each batch, and the data give image, label, index"),
    ],
)
def test_a_task_that_the_data_do_not_fit_is_found(typed: list[str], what: str) -> None:
    assert problems(*typed)["task"].what == what


def test_auxiliary_heads_that_nobody_counts_are_found_with_the_line_to_type() -> None:
    found = problems("task=segmentation", "data=digit_scenes", "model=pp_liteseg", "model.encoder_name=stdc1")
    assert found["model"].instead == "task.aux_weights=[1,1]"
