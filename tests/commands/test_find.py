"""scripts/find_lr.py, find_batch_size.py and find_workers.py: what they measure, suggest and refuse."""

import math
import re
from pathlib import Path

import pytest
import torch

from plainloop.commands import find_batch_size, find_lr, find_workers
from plainloop.loop.trainer import Trainer
from plainloop.run.probe import batch_size
from plainloop.run.probe.lr_range import Curve, range_test, smoothed
from plainloop.run.probe.parts import Probe, tiled
from tests.harness.configs import checked

QUICK = ("model.width=4", "device=cpu", "threads=1")


def curve(*losses: float) -> Curve:
    return Curve([10.0**power for power in range(-6, len(losses) - 6)], list(losses), list(losses))


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_lowest_loss() -> None:
    assert curve(2.0, 1.9, 1.0, 0.5, 3.0).suggestion == 1e-4
    assert curve(2.0, 1.9, 1.0, 0.5, 3.0).problem() == ""


@pytest.mark.parametrize(
    ("losses", "problem"),
    [((2.0, 2.0, 2.0), "does not fall"), ((2.0, 1.5, 1.0), "still falls"), ((1.0, 2.0, 4.0), "rises from the lowest")],
)
def test_a_curve_without_a_lowest_point_inside_gives_no_suggestion(losses: tuple[float, ...], problem: str) -> None:
    assert problem in curve(*losses).problem()


def test_the_range_test_is_reproducible_ends_where_it_diverges_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = checked(*QUICK, "augment=crop_flip", "model.drop_rate=0.2")
    both = [range_test(config, low=1e-5, high=1e3, steps=60, tell=lambda text: None) for _ in range(2)]
    assert both[0] == both[1] and list(tmp_path.iterdir()) == []
    assert len(both[0].rates) < 60 and all(map(math.isfinite, both[0].losses))
    assert both[0].smooth == smoothed(both[0].losses)


def test_a_probe_steps_as_the_run_does() -> None:
    import tempfile

    from plainloop.run_dir.checkpoints import Checkpoints
    from tests.harness.runs import SMALL, start_config

    config = checked(*SMALL, "device=cpu", "augment=crop_flip", "trainer.duration=2st")
    with tempfile.TemporaryDirectory() as folder:
        assert start_config(config, Path(folder)).wait().code == 0
        loaded = Checkpoints(Path(folder) / "checkpoints").newest()
    probe = Probe.of(config)
    for batch in probe.trainer.data.train_batches(0, 2, config["seed"]):
        probe.update(batch)
    own = probe.state.model.state_dict()
    assert loaded and all(torch.equal(own[name], loaded.state["model"][name]) for name in own)


def test_a_probe_measures_what_learns_in_the_end() -> None:
    probe = Probe.of(checked(*QUICK, "trainer.freeze=backbone", "trainer.freeze_until=50%"))
    assert all(parameter.requires_grad for parameter in probe.state.model.parameters())
    kept = Probe.of(checked(*QUICK, "trainer.freeze=backbone"))
    assert sum(parameter.requires_grad for parameter in kept.state.model.parameters()) == 2


def test_find_lr_writes_a_picture_and_the_line_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lr.png"
    arguments = [*QUICK, "optimizer=sgd", "trainer.lr_scaling.rule=linear", "--steps", "60", "--out", str(out)]
    assert find_lr.main([*arguments, "--low", "1e-4"]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"
    typed = re.search(r"type optimizer.lr=(\S+)   \(x 0.25 by trainer.lr_scaling is (\S+)\)", capsys.readouterr().out)
    assert typed and float(typed[1]) == pytest.approx(4 * float(typed[2]), rel=0.05)


@pytest.mark.parametrize("options", [["--low", "1", "--high", "0.1"], ["--steps", "3"], ["--out", "lr.txt"]])
def test_find_lr_refuses_what_gives_no_curve(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert find_lr.main([*QUICK, *options]) == 64
    assert options[0] in capsys.readouterr().err


def test_batches_are_filled_with_repeated_samples() -> None:
    batch = {"index": torch.arange(3), "image": torch.rand(3, 1, 2, 2)}
    assert tiled(batch, 8)["index"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_sizes_double_until_one_does_not_fit_and_one_between_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the machine is given; what a step takes is as measured, or a line through it."""
    monkeypatch.setattr(batch_size, "_of_process", lambda name: None)
    fits = iter([True] * 2 + [False] * 9)
    monkeypatch.setattr(batch_size, "_would_be", lambda taken, size: 0.0 if next(fits) else float("inf"))
    monkeypatch.setattr(batch_size, "_cpu_limit", lambda: 1.0)
    found = list(batch_size.measure(checked(*QUICK), most=4096, tell=lambda text: None))
    assert [(one.size, one.fits) for one in found] == [(8, True), (16, True), (32, False), (24, False)]


def test_what_a_size_needs_lies_on_the_line_through_the_last_two() -> None:
    taken = [batch_size.Measured(8, 1.0, 100), batch_size.Measured(16, 1.0, 140)]
    assert batch_size._would_be(taken, 32) == 220


def test_find_batch_size_prints_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_batch_size.main([*QUICK, "--most", "16"]) == 0
    out = capsys.readouterr().out
    assert "type data.batch_size=16 optimizer.lr=0.001 trainer.lr_scaling.rule=sqrt" in out
    assert "trainer.lr_scaling.base_batch_size=64" in out


def test_find_workers_says_which_side_is_the_limit(photos, capsys, monkeypatch) -> None:
    from plainloop.run.probe import workers

    monkeypatch.setattr(workers, "FOR_S", 0.3)
    root = photos({"cat": 8, "dog": 8})
    arguments = ["data=image_folder", f"data.root={root}", "data.image_size=16", "data.batch_size=4", "--most", "1"]
    assert find_workers.main([*QUICK, *arguments]) == 0
    out = capsys.readouterr().out
    assert re.search(r"(loading|the training step) is the limit", out) and re.search(
        r"type data.num_workers=[01]\n", out
    )


def test_find_workers_has_nothing_to_find_for_data_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_workers.main([*QUICK]) == 0
    assert "need none" in capsys.readouterr().out


def test_batches_are_tried_with_the_largest_images_that_augmentations_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 pixels, 32 to 128 are drawn."""
    typed = ("task=detection", "data=digit_boxes", "data.num_train=8", "data.num_val=2", "data.image_size=64")
    typed += ("model=yolov3", "model.backbone=tiny", "augment=multi_scale", "augment.multi_scale.every=1", "device=cpu")
    config = checked(*typed, "augment.multi_scale.scale=[0.5,2]", "data.batch_size=4", "threads=1")
    seen = set[int]()
    monkeypatch.setattr(Trainer, "update", lambda self, model, state, batch: seen.add(batch["image"].shape[-1]))
    ordinary = Probe.of(config)
    for probe, sizes in ((ordinary, {32, 64, 96, 128}), (ordinary.with_largest_images(), {128})):
        seen.clear()
        for _ in range(20):
            probe.update(probe.batch())
        assert seen == sizes
