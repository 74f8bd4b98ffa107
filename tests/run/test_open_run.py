"""A run opened again is the model that the run evaluated; what is wrong with a folder is told with what to type.

`golden_run` was made by early code: job 0 is finished, job 1 was stopped in step 13 of 20.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from plainloop.errors import BadConfig, BadData, RunError
from plainloop.run.trained.open import Trained, open_run, require_same_classes
from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness.configs import ROOT
from tests.harness.tensors import equal

GOLDEN = ROOT / "tests/lifecycle/golden_run/sweep"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "sweep"))


def weights(trained: Trained) -> dict[str, Any]:
    return dict(trained.model.state_dict())


def images() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=generator)}


def test_best_and_last_and_a_step_are_the_averaged_weights_of_that_step(sweep: Path) -> None:
    run = sweep / "0"
    steps = Checkpoints(run / "checkpoints").steps()
    for checkpoint, step in (("best", 20), ("last", 20), (max(steps), max(steps)), (str(min(steps)), min(steps))):
        trained = open_run(run, checkpoint)
        assert trained.step == step
        assert equal(weights(trained), dict(Checkpoints(run / "checkpoints").load(steps[step])["ema"]))
        assert trained.weights.endswith(f", step {step} of 20")
    assert not equal(weights(open_run(run, min(steps))), weights(open_run(run)))  # the control


def test_it_predicts_as_the_model_does_and_changes_nothing_else(sweep: Path) -> None:
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    torch.manual_seed(5), random.seed(5)
    drawn = torch.rand(3), random.random()
    torch.manual_seed(5), random.seed(5)
    trained = open_run(sweep / "0")
    assert equal((torch.rand(3), random.random()), drawn)
    assert not trained.model.training and not any(one.requires_grad for one in trained.model.parameters())
    batch = images()
    by_hand = trained.model((batch["image"] / 255 - 0.3053) / 0.3759)
    torch.testing.assert_close(trained.predict(batch), by_hand)  # the order of float32's arithmetic differs
    assert trained.class_names == tuple("0123456789")
    assert {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()} == before


def test_a_half_finished_run_gives_what_it_has_and_says_which_step(sweep: Path) -> None:
    assert open_run(sweep / "1").weights == "best.safetensors, step 10 of 20; the run is PREEMPTED at step 13"
    assert open_run(sweep / "1", "last").weights == "checkpoint, step 13 of 20; the run is PREEMPTED at step 13"


def test_without_any_evaluation_the_newest_checkpoint_is_taken_with_a_word(
    sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (sweep / "1/best.safetensors").unlink()
    assert open_run(sweep / "1").step == 13
    assert "nothing was evaluated. Step 13 is taken" in caplog.text


def test_the_weights_alone_are_enough_where_checkpoints_were_deleted(sweep: Path) -> None:
    shutil.rmtree(sweep / "0/checkpoints")
    assert open_run(sweep / "0").step == open_run(sweep / "0", "last").step == 20


def test_a_model_that_asks_for_published_weights_is_built_without_them(sweep: Path) -> None:
    changed(sweep / "0", model={"pretrained": True})  # TinyNet has none: building it so would fail
    assert open_run(sweep / "0").step == 20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_gpu_is_opened_where_there_is_none(sweep: Path) -> None:
    changed(sweep / "0", data={"device": "cuda"})
    path = sweep / "0/config.yaml"
    path.write_text(path.read_text().replace("\ndevice: auto", "\ndevice: cuda"))
    trained = open_run(sweep / "0")
    assert trained.device.type != "cuda" and trained.config["data"]["device"] == "auto"
    message, _ = refused(BadConfig, sweep / "0", device="cuda")
    assert message == "device=cuda, but torch sees no CUDA device; type device=cpu"


def changed(run: Path, **groups: dict[str, Any]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    for group, values in groups.items():
        config[group].update(values)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def refused(kind: type[RunError], run: Path, checkpoint: str = "best", **settings: Any) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        open_run(run, checkpoint, **settings)
    return str(caught.value), caught.value.hint


def test_wrong_folders_are_told_with_the_run_that_may_be_meant(sweep: Path) -> None:
    newest = f"the newest run in {sweep} is {sweep}/"
    message, hint = refused(BadConfig, sweep / "7")
    assert message == f"{sweep / '7'} does not exist; expected a run directory" and hint.startswith(newest)
    message, _ = refused(BadConfig, sweep / "jobs.jsonl")
    assert message == f"{sweep / 'jobs.jsonl'} is a file; expected a run directory"
    message, hint = refused(BadConfig, sweep)
    assert message == f"{sweep} holds 2 runs and is none itself: 0, 1" and hint == f"type one of them: {sweep / '1'}"
    (sweep / "empty").mkdir()
    message, _ = refused(BadConfig, sweep / "empty")
    assert message == f"{sweep / 'empty'} has no config.yaml: it is no run directory"


def test_a_run_without_weights_says_where_it_is(sweep: Path) -> None:
    shutil.rmtree(sweep / "1/checkpoints")
    (sweep / "1/best.safetensors").unlink()
    message, hint = refused(BadConfig, sweep / "1")
    assert message == f"{sweep / '1'} has no weights yet: it is PREEMPTED at step 13 of 20"
    assert hint == f"train it: python train.py resume={sweep / '1'}"


def test_a_finished_run_whose_weights_were_deleted_is_not_told_to_train_on(sweep: Path) -> None:
    shutil.rmtree(sweep / "0/checkpoints")
    for name in ("best", "last"):
        (sweep / f"0/{name}.safetensors").unlink()
    message, hint = refused(BadConfig, sweep / "0")
    assert message.startswith(f"{sweep / '0'} is finished, and its weights are gone") and "resume" not in hint


def test_a_step_that_is_not_there_is_told_with_those_that_are(sweep: Path) -> None:
    steps = sorted(Checkpoints(sweep / "0/checkpoints").steps())
    words = " or ".join(", ".join(f"checkpoint={s}" for s in [*steps, "best", "last"]).rsplit(", ", 1))
    assert refused(BadConfig, sweep / "0", "7") == (f"{sweep / '0'} has no checkpoint of step 7", f"type {words}")
    message, hint = refused(BadConfig, sweep / "0", "newest")
    assert message == "checkpoint=newest must be best, last or a step" and hint == f"type {words}"


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"\xff" * 64 + data[64:]])
def test_damaged_weights_are_told_with_others_that_are_there(sweep: Path, damage: Any) -> None:
    path = sweep / "0/best.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    message, hint = refused(BadData, sweep / "0")
    assert message.startswith(f"damaged: {path} cannot be used: ")
    assert hint == "type checkpoint=20 or checkpoint=last"
    assert open_run(sweep / "0", 20).step == open_run(sweep / "0", "last").step == 20


def test_a_damaged_checkpoint_is_told_and_not_renamed(sweep: Path) -> None:
    steps = Checkpoints(sweep / "0/checkpoints").steps()
    path = steps[20]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    message, hint = refused(BadData, sweep / "0", "last")
    assert message.startswith(f"damaged: {path} cannot be used: altered within bytes")
    others = [f"checkpoint={step}" for step in sorted(steps) if step != 20]
    assert hint == f"type {', '.join([*others, 'checkpoint=best'])} or checkpoint=last"
    assert path.exists()


def test_weights_of_another_model_are_told(sweep: Path) -> None:
    changed(sweep / "0", model={"width": 8})
    message, hint = refused(BadConfig, sweep / "0")
    assert "do not fit the model that its config builds now" in message and "size mismatch" in message
    assert hint.startswith("leave model.* out")


@pytest.mark.parametrize(
    ("key", "told"), [("class_names", "leave data.class_names out"), ("labels", "data.labels=<file>")]
)
def test_other_classes_are_told_with_a_key_that_the_data_have(key: str, told: str) -> None:
    saved, now = ({"facts": {"class_names": ["sky", name]}, "data": {key: None}} for name in ("road", "street"))
    require_same_classes(saved, saved)
    with pytest.raises(BadConfig, match="only in the run: road; only in the data: street") as caught:
        require_same_classes(saved, now)
    assert str(caught.value.hint).endswith(told)


def test_code_of_strangers_is_not_run_unless_it_is_allowed(sweep: Path) -> None:
    changed(sweep / "0", task={"_target_": "their_package.Task"})
    assert refused(BadConfig, sweep / "0") == (
        "the run's task is their_package.Task, which is not Plainloop's own code",
        "if you trust that package, add plugins=[their_package]",
    )
    message, _ = refused(BadConfig, sweep / "0", plugins=["their_package"])
    assert "their_package" in message  # it is looked for, and is not installed
