"""Between log steps the host never waits for the device, whatever is switched on.

On the meta device, where no value can be read, each part shows that it sends nothing that the host would wait for; on
a GPU, CUDA itself says where it would wait.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from plainloop.augment.mixing import mixup_or_cutmix
from plainloop.config.durations import clock_of
from plainloop.config.parts import build_data, make_part
from plainloop.contracts import Batch
from plainloop.loop.agreement import Agreement
from plainloop.loop.normalize import Normalize, to_device, to_float
from plainloop.loop.state import EMA, TrainState
from plainloop.loop.trainer import Trainer
from plainloop.models.detection.yolov3 import YOLOv3
from plainloop.models.tiny_seg import TinySeg
from plainloop.system import rng
from plainloop.tasks.classification import Classification
from plainloop.tasks.detection import Detection
from plainloop.tasks.segmentation import LOSSES, Segmentation
from tests.gpu import test_bits
from tests.harness import inject
from tests.harness.commands import passed
from tests.harness.configs import ROOT, checked
from tests.harness.gpu import FAST, command
from tests.harness.nets import small_net
from tests.harness.runs import TASKS, train
from tests.harness.tensors import HostWait, NoHostWaits
from tests.harness.toys import toy_trainer

META = torch.device("meta")
OPTIONS = sorted(path.stem for path in (ROOT / "conf/augment").glob("*.yaml"))


GAMMA = torch.library.Library("aten", "IMPL")  # torch 2.11 has none for the meta device
if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_standard_gamma", "Meta"):
    GAMMA.impl("_standard_gamma", lambda alpha, generator=None: torch.empty_like(alpha), "Meta")


@pytest.fixture(autouse=True)
def a_generator_for_the_meta_device() -> Iterator[None]:
    """torch has none for it, and takes one of the host."""
    rng._shared[META] = torch.Generator()
    yield
    del rng._shared[META]


def on_the_host() -> Batch:
    image = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    return {"image": image, "label": torch.arange(8) % 5, "index": torch.arange(8)}


def masked() -> Batch:
    batch = on_the_host()
    return {"image": batch["image"], "mask": torch.arange(8 * 256).view(8, 16, 16) % 5, "index": batch["index"]}


def boxed() -> Batch:
    batch = on_the_host()
    flags = torch.zeros(8, 3, dtype=torch.bool)
    return {
        "image": batch["image"],
        "boxes": torch.tensor([2.0, 2, 9, 9]).expand(8, 3, 4).clone(),
        "box_label": torch.zeros(8, 3, dtype=torch.int64),
        "box_valid": ~flags,
        "box_crowd": flags,
        "instance_mask": torch.ones(8, 3, 16, 16, dtype=torch.bool),
        "index": batch["index"],
    }


def augmentations(option: str) -> dict[str, Any]:
    """Those that work on whole batches, as a run on photographs without workers builds them."""
    boxes = ("data=digit_boxes", "task=detection", "model=yolov3", "model.backbone=tiny")
    config = checked(f"augment={option}", *(boxes if option in OF_BOXES else ()))
    config["facts"] |= {"image_shape": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    augment = build_data(config, functools.partial(make_part, config, clock_of(config)))[1]
    return {name: function for name, function in augment.items() if not hasattr(function, "transform")}


OF_MASKS = (
    *("segmentation", "crop_flip", "vertical_flip", "random_rotation", "color_jitter", "gaussian_blur", "cutout"),
    *("random_erasing", "cutmix"),
)
OF_BOXES = ("mosaic", "mixup_boxes")  # they refuse labels
WITH_BOXES = (*OF_BOXES, "ssd", "yolo", "large_scale_jitter", "multi_scale", "detection")


@pytest.mark.parametrize(
    ("option", "given"),
    [
        *((name, on_the_host) for name in OPTIONS if name not in OF_BOXES),
        *((name, masked) for name in OF_MASKS),
        *((name, boxed) for name in WITH_BOXES),
    ],
)
def test_an_augmentation_sends_nothing_that_the_host_waits_for(option: str, given: Callable[[], Batch]) -> None:
    found = augmentations(option)
    batch = to_float(to_device(given(), META))
    for function in found.values():  # the first call may send constants
        function(dict(batch), 0)
    with NoHostWaits():
        for function in found.values():
            batch = function(batch, 1)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: torch.tensor([0.5, 0.5], device=x.device),
        lambda x: torch.tensor([0.5, 0.5]).to(x.device),
        lambda x: x.copy_(torch.zeros(x.shape)),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x[x > 0],
        lambda x: x.sum().item(),
    ],
)
def test_what_the_host_would_wait_for_is_found(wait: Callable[[Tensor], Any]) -> None:
    x = torch.zeros(4, device=META)
    with NoHostWaits(), pytest.raises((HostWait, AssertionError, RuntimeError, NotImplementedError)):
        wait(x)


def mixed(batch: Batch, step: int) -> Batch:
    return mixup_or_cutmix(batch, step, num_classes=5)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "the norm clipped": {"clip_norm": 1.0},
    "the elements clipped": {"clip_value": 0.1},
    "agc": {"clip_agc": 0.01},
    "accumulate": {"accumulate": 2},
    "ema": {"ema": 0.9},
    "mixed labels": {"augment": [mixed]},
    "class weights": {"task": Classification(num_classes=5, class_weights=[1, 1, 1, 1, 5.0])},
    "bce": {"task": Classification(num_classes=5, loss="bce", label_smoothing=0.1)},
    "masks": {"task": Segmentation(num_classes=5)},
    "masks, every loss": {
        "task": Segmentation(num_classes=5, losses=dict.fromkeys(LOSSES, 1.0), class_weights=[1, 1, 1, 1, 5.0])
    },
    "masks, views": {"task": Segmentation(num_classes=5, tta_scales=[0.5, 1.0], tta_flip=True, window=12)},
    "boxes": {"task": Detection(num_classes=5)},
}


# The model and the batches of each task.
PARTS: dict[type, tuple[Callable[[], nn.Module], Callable[[], Batch]]] = {
    Classification: (small_net, on_the_host),
    Segmentation: (lambda: TinySeg(num_classes=5, width=2), masked),
    Detection: (lambda: YOLOv3(num_classes=5, backbone="tiny", width=4), boxed),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_and_evaluations_send_nothing_that_the_host_waits_for(setting: str) -> None:
    settings = {"task": Classification(num_classes=5)} | SETTINGS[setting]
    ema = settings.pop("ema", None)
    normalize = Normalize(mean=(0.4,) * 3, std=(0.2,) * 3, device=META)
    trainer = toy_trainer(steps=100, log_every=1, device=META, normalize=normalize, **settings)
    make, given = PARTS[type(trainer.task)]
    model = make().to(META)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = TrainState(model, optimizer, GradScaler("cpu", enabled=False), EMA(model, ema) if ema else None)
    metrics = trainer.task.metrics()

    def step() -> None:
        batch = trainer.prepare(to_device(given(), META))
        for function in trainer.augment:
            batch = function(batch, state.step)
        trainer.update(state.model, state, trainer.normalize(batch))
        with torch.no_grad():
            batch = trainer.normalize(trainer.prepare(to_device(given(), META)))
            metrics.update(trainer.task.predict(state.evaluated, batch), batch)

    step()  # the first may send constants
    with NoHostWaits():
        step()


# CUDA itself: the mode is on from the end of one wait that is meant to the beginning of the next.
ON_CUDA: dict[str, tuple[str, ...]] = {
    "fp32": ("augment=crop_flip",),
    "bf16": ("trainer.precision=bf16",),
    "fp16": ("trainer.precision=fp16",),
    "channels last": ("trainer.channels_last=true",),
    "clipped": ("trainer.clip_norm=1.0", "trainer.clip_value=0.1", "trainer.clip_agc=0.01"),
    "ema and accumulate": ("trainer.ema_decay=0.9", "trainer.accumulate=2"),
    "class weights": ("task.class_weights=balanced",),
    "every augmentation of batches": (
        "augment=[standard,random_rotation,color_jitter,gaussian_blur,cutout,random_erasing,gridmask,hide_and_seek,mixup_or_cutmix]",
    ),
    "compile": ("trainer.compile=true",),
    "deterministic": ("trainer.deterministic=true", "augment=[crop_flip,random_erasing]"),
    "tf32": ("trainer.tf32=true",),
    "masks": (*TASKS["segmentation"], "task.losses.lovasz=1.0", "task.losses.ohem=1.0"),
    "boxes": TASKS["detection"],
    **FAST,
}


def watched() -> None:
    """Has CUDA raise where the host waits, but in the block of log and agreement steps."""
    inject.before(Trainer, "read_window", lambda *_: torch.cuda.set_sync_debug_mode("default"))
    restart = Agreement.restart_clock

    def resume(self: Agreement, step: int) -> None:
        restart(self, step)
        if step >= WARM:
            torch.cuda.set_sync_debug_mode("error")

    Agreement.restart_clock = resume


RUN = ("data.batch_size=240", "trainer.duration=20st", "trainer.log_every=6")
WARM = 6  # steps: constants are sent, kernels chosen and compiled


def test_what_is_typed_for_cuda_is_right() -> None:
    """On every machine: a GPU is at hand too seldom to find a misspelt key there."""
    for typed in (*(RUN + more for more in ON_CUDA.values()), *(command("cuda", *more) for more in bits().values())):
        passed(*typed, "device=cpu", "trainer.devices=1")


def bits() -> dict[str, tuple[str, ...]]:
    return {name: ("trainer.deterministic=true", *typed) for name, typed in test_bits.SETTINGS.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("setting", ON_CUDA)
def test_cuda_finds_no_wait_between_log_steps(setting: str, tmp_path: Path) -> None:
    more = ("trainer.eval_every=20st", "trainer.save_every=never", "device=cuda", "trainer.devices=1")
    ended = train(tmp_path, *RUN, *more, *ON_CUDA[setting], prepare=watched)
    assert ended.code == 0, ended.err


@pytest.mark.gpu
def test_cuda_finds_a_wait_that_is_put_in(tmp_path: Path) -> None:
    """The control."""

    def peeking() -> None:
        watched()
        inject.before(Trainer, "update", lambda self, model, state, batch: batch["image"].max().item())

    ended = train(tmp_path, *RUN, "device=cuda", "trainer.devices=1", prepare=peeking)
    assert ended.code == 70
    assert "synchronizing CUDA operation" in ended.err
