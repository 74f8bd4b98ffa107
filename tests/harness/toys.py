"""The smallest real things: a data set, a task and a model with every kind of state that a run can have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from plainloop.contracts import IGNORE, Batch, Facts, Split, Task
from plainloop.distributed import collectives
from plainloop.loop.evaluation.collect import Collected
from plainloop.loop.monitor import Monitor
from plainloop.loop.normalize import Normalize, to_float
from plainloop.loop.state import EMA, TrainState
from plainloop.loop.trainer import Trainer
from plainloop.models.detection import yolo_head
from plainloop.models.detection.yolo_head import NUM_BOX
from plainloop.schedule import multistep
from plainloop.system import rng
from plainloop.system.signals import Preemption
from plainloop.tasks.classification import Classification
from plainloop.tasks.detection import Detection
from plainloop.tasks.segmentation import Segmentation
from tests.harness.tensors import clone

NUM_TRAIN, NUM_VAL, CLASSES = 45, 13, 3


def as_they_are(output: Tensor) -> Tensor:
    return output


def as_boxes(output: Tensor, objects: Batch | None = None) -> Batch:
    """YOLOv3's reading of one map (B, A, h, w, 5 + classes) of 4x4 images: losses, or detections."""
    anchors = torch.tensor([[[1.0, 1.0], [3.0, 2.0]]], device=output.device)
    of_image: Any = {"anchors": anchors, "strides": (2,)}
    if objects is not None:
        return yolo_head.losses([output], objects, ignore_iou=0.5, **of_image)
    kept: Any = {"score_threshold": 0.01, "nms_iou": 0.5, "max_detections": 5}
    return yolo_head.detections([output], size=(4, 4), **of_image, **kept)


class Toy(NamedTuple):
    """A task; the shape of what the layers of its model give for a sample; and what the model makes of that."""

    task: Callable[[], Task]
    output: tuple[int, ...]
    read: Callable[..., Any] = as_they_are


TOYS = {
    "classification": Toy(lambda: Classification(num_classes=CLASSES), (CLASSES,)),
    "segmentation": Toy(
        lambda: Segmentation(num_classes=CLASSES, losses={"cross_entropy": 1.0, "focal": 0.5}), (CLASSES, 4, 4)
    ),
    "detection": Toy(
        lambda: Detection(num_classes=CLASSES, losses={"size": 0.5}), (2, 2, 2, NUM_BOX + CLASSES), as_boxes
    ),
}


class ToyData:
    """45 noisy 4x4 images of 3 classes, keyed by position; batch 8, so that an epoch of 5 steps leaves a rest.

    Each has a label, a mask, and no, one or two boxes. `change(step, batch)` makes of each training batch what the
    trainer gets.
    """

    def __init__(self, batch_size: int = 8, change: Callable[[int, Batch], Batch] = lambda step, batch: batch) -> None:
        self.batch_size, self.change = batch_size, change
        generator = torch.Generator().manual_seed(7)
        self.label = torch.arange(NUM_TRAIN + NUM_VAL) % CLASSES
        noise = torch.randint(0, 160, (NUM_TRAIN + NUM_VAL, 1, 4, 4), generator=generator, dtype=torch.uint8)
        self.image = noise + (self.label * 40).to(torch.uint8).view(-1, 1, 1, 1)
        self.mask = (self.label.view(-1, 1, 1) + torch.arange(16).view(4, 4)) % CLASSES
        self.mask[::3, 0] = IGNORE
        corners = torch.rand(NUM_TRAIN + NUM_VAL, 2, 2, generator=generator) * 2
        sizes = 1 + torch.rand(NUM_TRAIN + NUM_VAL, 2, 2, generator=generator)
        self.objects = {
            "boxes": torch.cat([corners, corners + sizes], dim=-1),
            "box_label": torch.stack([self.label, (self.label + 1) % CLASSES], dim=1),
            "box_valid": torch.arange(NUM_TRAIN + NUM_VAL)[:, None] % 5 > torch.tensor([0, 2]),
        }

    @classmethod
    def facts(cls, batch_size: int = 8) -> Facts:
        return Facts(NUM_TRAIN, NUM_VAL, tuple("abc"), (1, 4, 4), (0.4,), (0.2,))

    def train_batches(self, start: int, stop: int, seed: int) -> Iterator[Batch]:
        steps = NUM_TRAIN // self.batch_size
        rows = self.batch_size // collectives.world_size()
        for step in range(start, stop):
            generator = torch.Generator().manual_seed(rng.fold(rng.ORDER, seed, step // steps))
            order = torch.randperm(NUM_TRAIN, generator=generator)
            first = (step % steps) * self.batch_size + collectives.rank() * rows
            yield self.change(step + 1, self._batch(order[first : first + rows]))

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        first, last = (0, 12) if split == "train" else (NUM_TRAIN, NUM_TRAIN + NUM_VAL)
        mine = torch.arange(first, last)[collectives.rank() :: collectives.world_size()]
        for part in mine.split(5):
            yield self._batch(part)

    def _batch(self, index: Tensor) -> Batch:
        entries = {"image": self.image, "label": self.label, "mask": self.mask} | self.objects
        return {name: values[index] for name, values in entries.items()} | {"index": index}


class ToyNet(nn.Module):
    """BatchNorm, dropout, a tied weight, a frozen one."""

    def __init__(
        self,
        dropout: float = 0.2,
        output: tuple[int, ...] = (CLASSES,),
        read: Callable[..., Any] = as_they_are,
    ) -> None:
        super().__init__()
        self.output, self.read = output, read
        self.frozen = nn.Linear(16, 16)
        self.frozen.requires_grad_(False)
        self.body = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(dropout)
        self.again = nn.Linear(16, 16)
        self.again.weight = self.body.weight
        self.head = nn.Linear(16, math.prod(output))

    def forward(self, image: Tensor, *objects: Batch) -> Any:
        x = torch.relu(self.norm(self.body(self.frozen(image.flatten(1)))))
        return self.read(self.head(self.again(self.dropout(x))).unflatten(1, self.output), *objects)


class Memory:
    """A recorder that keeps what it is given."""

    def __init__(self, folder: Path = Path("toy")) -> None:
        self.folder = folder
        self.rows: dict[int, dict[str, float]] = {}
        self.saved: dict[int, dict[str, Any]] = {}
        self.best: list[int] = []
        self.evaluations: dict[int, Collected] = {}
        self.bad: list[tuple[int, float, list[int]]] = []

    def evaluating(self, split: str, rows: int) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def evaluated(self, step: int, metrics: dict[str, float], collected: Collected) -> None:
        self.evaluations[step] = collected

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None:
        self.rows[step] = {key: value for key, value in scalars.items() if not key.startswith("time/")}

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None:
        self.saved[state.step] = clone(state.state_dict(windows))
        self.best += [state.step] if best else []

    def bad_step(self, step: int, *, lr: float, samples: list[int], skipped: bool) -> str:
        self.bad.append((step, lr, samples))
        return f"look at step {step}"


def toy_state(
    task: str = "classification",
    *,
    dropout: float = 0.2,
    ema: float | None = 0.9,
    scaler: bool = False,
    lr: float = 0.02,
    seed: int = 0,
) -> TrainState:
    torch.manual_seed(seed)
    model = ToyNet(dropout, TOYS[task].output, TOYS[task].read)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": parameters[:2], "weight_decay": 0.1}, {"params": parameters[2:], "weight_decay": 0.0}],
        lr=lr,
        fused=True,  # the others read their step counter, which is on the host, and would hide a read of ours
    )
    return TrainState(
        model=model,
        optimizer=optimizer,
        scaler=GradScaler("cpu", enabled=scaler, init_scale=2.0**10, growth_interval=4),
        ema=EMA(model, ema) if ema else None,
    )


def toy_trainer(
    recorder: Any = None, *, steps: int = 12, task: str | Task = "classification", **settings: Any
) -> Trainer:
    task = TOYS[task].task() if isinstance(task, str) else task
    given: dict[str, Any] = {
        "task": task,
        "data": ToyData(),
        "augment": (),
        "schedule": partial(multistep, milestones=[7], gamma=0.1, total_steps=steps),
        "prepare": to_float,
        "normalize": Normalize(mean=(0.4,), std=(0.2,), device=torch.device("cpu")),
        "recorder": recorder or Memory(),
        "preemption": Preemption(),
        "device": torch.device("cpu"),
        "seed": 3,
        "steps": steps,
        "steps_per_epoch": 5,
        "base_lr": 0.02,
        "log_every": 4,
        "eval_every": 5,
    }
    monitors = dict.fromkeys(("best_by", "stop_by"), Monitor(task.monitor, task.mode))
    return Trainer(**given | monitors | settings)
