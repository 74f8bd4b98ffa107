"""The memory that the plan names is what a step takes; and what is said when there is not enough can be typed."""

from __future__ import annotations

import re
import shlex
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from plainloop.loop.trainer import Trainer
from plainloop.models.kept import kept_for_backward
from plainloop.report.plan import plan_of
from tests.harness import inject
from tests.harness.commands import passed
from tests.harness.gpu import CUDA, in_fork
from tests.harness.pictures import write_pictures
from tests.harness.runs import status, train

BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
SMALL = ("trainer.duration=3st", "trainer.eval_every=never", "trainer.save_every=never", "trainer.devices=1")


class Live(TorchDispatchMode):
    """Bytes of all tensors that operations have made and that are still there, as an allocator of a GPU counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        _pytree.tree_map_only(torch.Tensor, self.add, out)
        return out

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.remove, storage._cdata)

    def remove(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def counted_on_the_cpu(path: Path) -> Callable[[], None]:
    """Writes the most bytes that an update and what was there before it took together."""
    update = Trainer.update

    def counting(self: Trainer, model: nn.Module, state: Any, batch: Any) -> bool:
        entries = state.optimizer.state.values()
        held = [*model.parameters(), *model.buffers(), *(v for e in entries for v in e.values() if torch.is_tensor(v))]
        with Live() as live:
            skipped = update(self, model, state, batch)
        path.write_text(str(live.peak + sum(tensor.nbytes for tensor in [*held, *batch.values()])))
        return skipped

    return lambda: setattr(Trainer, "update", counting)


def counted_on_cuda(path: Path) -> Callable[[], None]:
    return inject.during("save", lambda: path.write_text(str(torch.cuda.max_memory_allocated())), kind=Trainer)


def planned(*overrides: str) -> float:
    (found,) = re.findall(r"about ([\d.]+) (\w+) per device", plan_of(passed(*overrides)))
    return float(found[0]) * BYTES[found[1]]


PHOTOS = ("data=image_folder", "data.image_size=224", "data.num_workers=0", "trainer.channels_last=true")
CASES = [
    pytest.param("cpu", ("model=resnet20", "data.batch_size=64", "optimizer=sgd"), id="resnet20"),
    *(
        pytest.param("cuda", (*PHOTOS, *typed, precision, "optimizer=adamw"), marks=pytest.mark.gpu, id=name)
        for name, typed, precision in [
            ("resnet50 fp32", ("model=resnet50", "data.batch_size=64"), "trainer.precision=fp32"),
            ("resnet50 bf16", ("model=resnet50", "data.batch_size=64"), "trainer.precision=bf16"),
            ("vit bf16", ("model=vit_small_patch16_224", "data.batch_size=64"), "trainer.precision=bf16"),
            ("convnext fp32", ("model=convnext_tiny", "data.batch_size=64"), "trainer.precision=fp32"),
        ]
    ),
]


@pytest.mark.parametrize(("device", "typed"), CASES)
def test_the_plan_names_the_peak_within_15_percent(device: str, typed: tuple[str, ...], tmp_path: Path) -> None:
    if device == "cuda":
        typed = (*typed, f"data.root={write_pictures(tmp_path / 'photos', classes=2, per_class=32, size=224)}")
    count = {"cpu": counted_on_the_cpu, "cuda": counted_on_cuda}[device](tmp_path / "peak")
    ended = train(tmp_path, *typed, *SMALL, f"device={device}", prepare=count)
    assert ended.code == 0, ended.err
    assert planned(*typed, *SMALL, "device=cpu") == pytest.approx(float((tmp_path / "peak").read_text()), rel=0.15)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_what_is_kept_is_counted_without_values_as_with_them(name: str) -> None:
    counted = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            model, images = timm.create_model(name), torch.zeros(2, 3, 64, 64)
        with kept_for_backward(model) as kept:
            model(images)
        counted.append(kept.bytes)
    assert counted[0] == counted[1] > 0


def test_what_is_kept_by_two_layers_is_counted_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    with kept_for_backward(model) as kept:
        model(torch.zeros(5, 4))
    assert kept.bytes == 4 * 5 * (4 + 8)  # the input, and the ReLU's output, which is the second layer's input


def limited(megabytes: int) -> Callable[[], None]:
    def prepare() -> None:
        torch.cuda.set_per_process_memory_fraction(megabytes * 1e6 / torch.cuda.mem_get_info()[1])

    return prepare


@pytest.mark.parametrize("device", [CUDA])
def test_what_is_said_when_memory_runs_out_ends_the_run_well(device: str, tmp_path: Path) -> None:
    big = ("model=resnet20", "data.batch_size=1024", f"device={device}", "hydra.run.dir=run", *SMALL)
    ended = train(tmp_path, *big, prepare=limited(80))
    assert ended.code == 70
    assert status(tmp_path / "run")["reason"] == "out_of_memory"
    for _ in range(6):
        *_, last = ended.err.strip().splitlines()
        typed = shlex.split(last[last.index("train.py") :])[1:]
        ended = train(tmp_path, *typed, prepare=limited(80))
        if ended.code == 0:
            break
    assert ended.code == 0, ended.err
    assert int(re.search(r"accumulate=(\d+)", " ".join(typed))[1]) > 1


@pytest.mark.gpu
def test_memory_is_that_of_the_card() -> None:
    """The control: the limit of the test above is in force."""

    def work() -> str:
        limited(80)()
        try:
            torch.empty(200_000_000, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            return "refused"
        return "given"

    assert in_fork(work) == "refused"
