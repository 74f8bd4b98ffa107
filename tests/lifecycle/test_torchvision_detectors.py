"""torchvision's detectors draw anchors and proposals in each step; a killed run goes on exactly all the same."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from plainloop.loop.trainer import Trainer
from tests.harness import inject
from tests.harness.runs import differences, remains, train

RUN = (
    *("data=digit_boxes", "data.num_train=12", "data.num_val=4", "data.image_size=64", "data.batch_size=4"),
    *("model.backbone=test_resnet", "model.channels=16", "model.anchor_sizes=[8,12,16,24,32]", "augment=scale_crop"),
    *("trainer.duration=6st", "trainer.log_every=3", "trainer.save_every=2st", "report=never", "hydra.run.dir=run"),
)
MODELS = {
    "faster_rcnn": ("model=faster_rcnn", "task=detection"),
    "mask_rcnn": ("model=mask_rcnn", "task=instance_segmentation"),
}


def drawing() -> None:
    """Draws more than the model does, at each step."""
    inject.before(Trainer, "update", lambda *_: torch.rand(7))


@pytest.mark.parametrize("model", ["mask_rcnn", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_a_killed_run_of_one_process_ends_with_the_same_bits(model: str, tmp_path: Path) -> None:
    command, ends = (*RUN, *MODELS[model]), dict[str, Any]()
    for name in ("untouched", "killed", "otherwise drawn"):
        folder = tmp_path / name
        folder.mkdir()
        if name != "untouched":
            prepare = inject.at_step(4, inject.send(signal.SIGKILL))
            assert train(folder, *command, prepare=prepare).code == -9
        ended = train(folder, *command, **({"prepare": drawing} if name == "otherwise drawn" else {}))
        assert ended.code == 0, ended.err
        ends[name] = remains(folder / "run")
    assert differences(ends["untouched"], ends["killed"]) == []
    assert "last.safetensors" in differences(ends["untouched"], ends["otherwise drawn"])
