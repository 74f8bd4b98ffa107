"""Wide and tall batches: what a step has is drawn anew in each epoch; a killed run goes on exactly all the same."""

import signal
from pathlib import Path
from typing import Any

from plainloop.data.loading import sampler
from tests.harness import inject
from tests.harness.photos import write_wide_and_tall
from tests.harness.runs import differences, remains, train

RUN = (
    *("task=detection", "data=coco", "data.image_size=[48,64]", "data.batch_size=4", "data.num_workers=1"),
    *("model=yolov3", "model.backbone=tiny", "model.width=4", "augment=detection", "trainer.duration=3ep"),
    *("trainer.log_every=2", "trainer.save_every=2st", "report=never", "hydra.run.dir=run"),
)


def first_draw_always() -> None:
    """Each epoch has the order of the first, in what is still to come."""
    whole = sampler.whole_epoch
    sampler.whole_epoch = lambda order, *, epoch, **more: whole(order, epoch=0, **more)


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    root, ends = write_wide_and_tall(tmp_path / "photos"), dict[str, Any]()
    command = (*RUN, f"data.root={root}")
    for name in ("untouched", "killed", "otherwise ordered"):
        folder = tmp_path / name
        folder.mkdir()
        if name != "untouched":
            assert train(folder, *command, prepare=inject.at_step(7, inject.send(signal.SIGKILL))).code == -9
        ended = train(folder, *command, **({"prepare": first_draw_always} if name == "otherwise ordered" else {}))
        assert ended.code == 0, ended.err
        ends[name] = remains(folder / "run")
    assert differences(ends["untouched"], ends["killed"]) == []
    assert "last.safetensors" in differences(ends["untouched"], ends["otherwise ordered"])
