"""The command that a run names when a number goes bad shows where it did, from the run's own files."""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from plainloop.commands.replay import replay
from plainloop.errors import BadConfig, NonFinite
from plainloop.loop.trainer import Trainer
from plainloop.run.run import run
from tests.harness.configs import ROOT, checked
from tests.harness.runs import files, lines

RUN = ("model.width=4", "data.batch_size=240", "trainer.duration=8st", "trainer.log_every=3", "trainer.save_every=2st")


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NonFinite]:
    """A run whose rate is so great that it ends in NaN."""
    folder = tmp_path_factory.mktemp("exploded") / "run"
    with pytest.raises(NonFinite) as error:
        run(checked(*RUN, "optimizer=sgd", "optimizer.lr=1e30", "scheduler=constant"), folder)
    return folder, error.value


def test_the_hint_of_a_bad_step_is_a_command_that_shows_it(exploded: tuple[Path, NonFinite]) -> None:
    folder, error = exploded
    (event,) = [row for row in lines(folder / "events.jsonl") if row["kind"] == "nonfinite"]
    assert event["lr"] == 1e30 and len(event["samples"]) == 240
    before = files(folder)
    words = shlex.split(error.hint)
    assert words[0] == "python" and words[-1] == str(event["step"])
    shown = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"step {event['step']}, learning rate 1e+30, trained again from step 0\n")
    assert "first module with an output that is not a number: " in shown.stdout
    assert files(folder) == before


def test_a_step_is_looked_at_as_it_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of its samples are those of the run's own pass, dropout and augmentation included."""
    seen: dict[int, Any] = {}
    update = Trainer.update

    def listening(self: Trainer, model: Any, state: Any, batch: Any) -> None:
        if type(self) is Trainer:
            seen[state.step + 1] = (batch["index"].tolist(),)
            state.window.read()
        update(self, model, state, batch)
        if type(self) is Trainer:
            seen[state.step + 1] += (
                float(state.window._pending[0]["loss"]),
                float(state.window._pending[-1].get("grad_norm", math.nan)),
            )

    monkeypatch.setattr(Trainer, "update", listening)
    config = checked(*RUN, "model.drop_rate=0.3", "augment=crop_flip", "augment.crop.pad=1", "trainer.clip_norm=0.1")
    run(config, tmp_path)
    before = files(tmp_path)
    for step in (1, 4, 8):
        findings = replay(tmp_path, step)
        index, loss, norm = seen[step]
        assert list(findings.losses) == index
        assert math.fsum(findings.losses.values()) / len(index) == pytest.approx(
            loss, rel=1e-6
        )  # another order of adding
        assert math.hypot(*findings.norms.values()) == pytest.approx(norm, rel=1e-6)
        assert findings.bad_samples == [] and findings.first_bad_module == ""
        # Saved at 2, 4, 5, 6, 8; the newest two and the best are kept.
        assert findings.from_step in {0, 5, 6, 7} and findings.from_step < step
    assert files(tmp_path) == before


def test_the_sample_and_the_module_that_went_bad_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plainloop.data.digits import Digits

    batches = Digits.train_batches

    def poisoned(self: Any, start: int, stop: int, seed: int) -> Any:
        for step, batch in enumerate(batches(self, start, stop, seed), start=start + 1):
            if step == 5:
                image = batch["image"].float()
                image[7] = math.nan
                batch = batch | {"image": image}
            yield batch

    monkeypatch.setattr(Digits, "train_batches", poisoned)
    # Without BatchNorm, which spreads it over the whole batch.
    with pytest.raises(NonFinite, match="step 5"):
        run(checked(*RUN), tmp_path)
    findings = replay(tmp_path, 5)
    (index,) = findings.bad_images
    assert index == list(findings.losses)[7]
    assert findings.first_bad_module.endswith("(Conv2d)")
    assert index in findings.bad_samples
    assert not all(torch.tensor(norm).isfinite() for norm in findings.norms.values())


def test_a_step_that_the_run_does_not_have_is_refused(exploded: tuple[Path, NonFinite], tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="has steps 1 to 8, and not step 9"):
        replay(exploded[0], 9)
    with pytest.raises(BadConfig, match="it is no run directory"):
        replay(tmp_path, 1)
