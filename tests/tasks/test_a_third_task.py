"""A task of somebody's own package: it adds files and edits none, and the loop's promises hold for it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.harness import inject
from tests.harness.runs import differences, lines, remains, train

# Depth from brightness: a real number for each pixel, which is neither a class nor a mask.
PACKAGE = {
    "depths/__init__.py": "",
    "depths/data.py": '''
import torch

from plainloop.contracts import Facts
from plainloop.data.loaders import Loader, loaders
from plainloop.data.memory import InMemory


class Ramps:
    """Grey ramps with noise; what is brighter is further away."""

    def __init__(self, *, batch_size: int, num_images: int = 50, device: str = "auto") -> None:
        draw = torch.Generator().manual_seed(0)
        shift = torch.rand(num_images, 1, 1, generator=draw)
        depth = ((torch.arange(16) / 16 + shift) % 1).expand(num_images, 16, 16).contiguous()
        noise = torch.rand(num_images, 1, 16, 16, generator=draw)
        image = (depth[:, None] * 200 + noise * 40).to(torch.uint8)
        self._memory = InMemory(
            {"train": {"image": image[10:], "depth": depth[10:]}, "val": {"image": image[:10], "depth": depth[:10]}},
            loaders=loaders(Loader(batch_size, num_workers=0)),
            device=device,
            train_eval_samples=8,
        )
        self.batch_size = batch_size
        self.train_batches, self.eval_batches = self._memory.train_batches, self._memory.eval_batches

    @classmethod
    def facts(cls, *, num_images: int = 50, **settings: object) -> Facts:
        return Facts(num_images - 10, 10, ("depth",), (1, 16, 16), mean=(0.5,), std=(0.3,))
''',
    "depths/task.py": """
import torch
from torch.nn import functional as F

from plainloop import distributed


class Depth:
    monitor, mode = "mae", "min"

    def __init__(self, *, beta: float = 0.1) -> None:
        self.beta = beta

    def loss(self, model, batch):
        loss = F.smooth_l1_loss(self.predict(model, batch), batch["depth"], beta=self.beta)
        return loss, {"loss": loss.detach()}

    def weight(self, batch):
        return torch.tensor(float(len(batch["depth"])), device=batch["depth"].device)

    def predict(self, model, batch):
        return model(batch["image"]).float()[:, 0]

    def metrics(self):
        return Errors()


class Errors:
    def __init__(self):
        self.totals = []

    def update(self, prediction, batch):
        errors = (prediction - batch["depth"]).abs().double()
        self.totals.append(torch.stack([errors.sum(), torch.full_like(errors.sum(), errors.numel())]))

    def compute(self):
        total, number = distributed.sum_(torch.stack(self.totals).sum(0)).tolist()
        return {"mae": total / number}
""",
    "depths/augment.py": '''
import torch

from plainloop.augment import draws


def mirrored(batch, step, *, p: float = 0.5):
    """Image and depth left to right."""
    chosen = draws.uniform(batch, 1, 1) < p
    return batch | {
        "image": torch.where(chosen[:, None], batch["image"].flip(-1), batch["image"]),
        "depth": torch.where(chosen, batch["depth"].flip(-1), batch["depth"]),
    }
''',
    "depths/conf/data/ramps.yaml": "_target_: depths.data.Ramps\nbatch_size: 8\nnum_images: 50\ndevice: ${device}\n",
    "depths/conf/task/depth.yaml": "_target_: depths.task.Depth\nbeta: 0.1\n",
    "depths/conf/augment/mirrored.yaml": ("mirrored: {_target_: depths.augment.mirrored, _partial_: true, p: 0.5}\n"),
}
TYPED = (
    *("--config-dir", "depths/conf", "plugins=[depths]", "data=ramps", "task=depth", "augment=mirrored"),
    *(
        "model=tiny_seg",
        "model.width=4",
        "optimizer.lr=0.01",
        "scheduler=cosine_warmup",
        "trainer.duration=150st",
        "trainer.eval_every=50st",
    ),
    *("trainer.ema_decay=0.8", "trainer.log_every=15", "trainer.save_every=20st", "hydra.run.dir=run"),
)
EVEN = 0.25  # the error of one who always says the mean depth


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_learns_and_after_a_kill_ends_with_the_same_bits(place: Path) -> None:
    def found() -> None:
        sys.path.insert(0, str(place))

    def killed() -> None:
        found()
        inject.at_step(67, inject.send(signal.SIGKILL))()

    alone = train(place, *TYPED, prepare=found)
    assert alone.code == 0, alone.err
    last = lines(place / "run/metrics.jsonl")[-1]
    assert last["val/mae"] < EVEN / 3 and last["train_eval/mae"] < EVEN / 3

    again = [word.replace("hydra.run.dir=run", "hydra.run.dir=killed") for word in TYPED]
    assert train(place, *again, prepare=killed).code == -signal.SIGKILL
    ended = train(place, *again, prepare=found)
    assert ended.code == 0, ended.err
    assert differences(remains(place / "run"), remains(place / "killed")) == []


def test_it_is_checked_as_any_other(place: Path) -> None:
    refused = train(place, *TYPED, "task.bta=1", prepare=lambda: sys.path.insert(0, str(place)))
    assert refused.code == 64
    assert "task.beta" in refused.err
