"""Several ranks on GPUs: one rank with NCCL; two on one card by gloo, because NCCL refuses to share a card."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from plainloop.distributed import collectives, process_group
from plainloop.errors import BadConfig
from plainloop.run import backend
from plainloop.run.run import run
from tests.harness import gpu
from tests.harness.configs import checked
from tests.harness.gpu import DEVICES
from tests.harness.ranks import start, start_run, wait
from tests.harness.runs import lines


def gloo_for_all() -> None:
    """Has this process send CUDA tensors by gloo too: the same program then runs with several ranks on one card."""
    join = dist.init_process_group
    dist.init_process_group = lambda backend, **more: join(backend.replace("nccl", "gloo"), **more)


def device_here(device: str) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")


def on_two(folder: Path, device: str, act: Callable[[], Any]) -> list[Any]:
    def joined() -> Any:
        gloo_for_all()
        with process_group.process_group(device, timeout_s=60):
            return act()

    return on_ranks_of(folder, joined)


def on_ranks_of(folder: Path, act: Callable[[], Any]) -> list[Any]:
    children = start(folder, 2, act)
    assert wait(children) == [0, 0], "\n".join(child.wait().err for child in children)
    return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize("device", DEVICES)
def test_sums_and_gathers_of_two_ranks(device: str, tmp_path: Path) -> None:
    def act() -> Any:
        here, rank = device_here(device), collectives.rank()
        total = collectives.sum_(torch.tensor([1.0 + rank, 10.0], device=here)).tolist()
        largest = collectives.max_(torch.tensor(float(rank), device=here)).item()
        return total, largest, collectives.gather({"rank": rank}), collectives.from_rank_0(rank)

    assert on_two(tmp_path / "meeting", device, act) == [([3.0, 20.0], 1.0, [{"rank": 0}, {"rank": 1}], 0)] * 2


@pytest.mark.parametrize("device", DEVICES)
def test_two_ranks_train_as_one(device: str, tmp_path: Path) -> None:
    """Without BatchNorm and draws, one step of two ranks is one step of one process up to the order of a sum."""
    typed = (
        *("model.width=4", "data.batch_size=240", "trainer.duration=1st", "trainer.log_every=1st"),
        *("trainer.eval_every=never", "trainer.save_every=1st", "optimizer=sgd"),
    )
    config = checked(*typed, "device=cpu", "trainer.devices=1", "logger=none")
    config |= {"device": device, "data": config["data"] | {"device": device}}
    children = start_run(config, tmp_path / "two", 2, prepare=gloo_for_all)
    assert wait(children) == [0, 0], "\n".join(child.wait().err for child in children)
    (tmp_path / "one").mkdir()
    assert gpu.in_fork(lambda: run_alone(config, tmp_path / "one")) == 1
    one, two = (lines(tmp_path / name / "metrics.jsonl")[-1] for name in ("one", "two"))
    assert two["train/loss"] == pytest.approx(one["train/loss"], rel=0.05)  # BatchNorm over half a batch
    assert (tmp_path / "two" / "last.safetensors").exists()


def run_alone(config: dict[str, Any], folder: Path) -> int:
    return int(run(config, folder)["steps"])


def one_rank_of_nccl() -> tuple[list[float], bool]:
    """A sum by NCCL and one by gloo in the same group; DDP around one rank gives the gradients of the model itself."""
    store = dist.HashStore()
    torch.cuda.set_device(0)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    sums = []
    for device in ("cuda", "cpu"):
        tensor = torch.tensor(3.0, device=device)
        dist.all_reduce(tensor)
        sums.append(tensor.item())
    torch.manual_seed(0)
    plain = nn.Linear(8, 3).cuda()
    wrapped = nn.parallel.DistributedDataParallel(plain, device_ids=[0])
    x = torch.ones(4, 8, device="cuda")
    wrapped(x).sum().backward()
    by_ddp = plain.weight.grad.clone()
    plain.zero_grad()
    plain(x).sum().backward()
    same = torch.equal(by_ddp, plain.weight.grad)
    dist.destroy_process_group()
    return sums, same


@pytest.mark.gpu
def test_one_rank_of_nccl() -> None:
    assert gpu.in_fork(one_rank_of_nccl) == ([3.0, 3.0], True)


@pytest.mark.gpu
def test_nccl_on_one_card_refuses_two_ranks_with_our_message(tmp_path: Path) -> None:
    """Where this fails, NCCL allows it by now, and two ranks may share a card."""

    def act() -> str:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        try:
            with process_group.process_group("cuda", timeout_s=30):
                collectives.sum_(torch.ones(1, device="cuda")).item()
        except BadConfig as error:
            return str(error)
        return "it works"

    assert on_ranks_of(tmp_path / "meeting", act) == ["two ranks have the same GPU, which NCCL refuses"] * 2


@pytest.mark.gpu
def test_sync_batchnorm_on_two_ranks_is_batchnorm_on_one(tmp_path: Path) -> None:
    """The statistics are those of the whole batch."""
    images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))

    def act() -> list[float]:
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(3)).to(device_here("cuda"))
        mine = images.chunk(2)[collectives.rank()].to(device_here("cuda"))
        norm(mine).sum().backward()
        return torch.cat([norm.running_mean, norm.running_var]).tolist()

    whole = nn.BatchNorm2d(3)
    whole(images)
    expected = torch.cat([whole.running_mean, whole.running_var]).tolist()
    for found in on_two(tmp_path / "meeting", "cuda", act):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.gpu
def test_a_model_in_ddp_is_wrapped_for_its_card(tmp_path: Path) -> None:
    def act() -> tuple[list[int], bool]:
        model = nn.Linear(4, 2).to(device_here("cuda"))
        settings = {"compile": False, "find_unused_parameters": False, "static_graph": False, "bucket_cap_mb": None}
        wrapped = backend.wrap(model, device_here("cuda"), **settings)
        wrapped(torch.full((2, 4), float(collectives.rank()), device="cuda")).sum().backward()
        return list(wrapped.device_ids), bool((model.weight.grad == 1.0).all())  # the mean of 0 and 2

    assert on_two(tmp_path / "meeting", "cuda", act) == [([0], True)] * 2
