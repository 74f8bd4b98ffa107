"""The benchmarks run to their end, and what they compute is right."""

import json
import random
import re
import subprocess
import sys

import pytest
import torch

from benchmarks import pairs
from tests.harness.configs import ROOT


def run(script: str, *arguments: str) -> str:
    """What a benchmark prints, run as one types it."""
    command = [sys.executable, f"benchmarks/{script}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loop_overhead_ends_with_a_ratio_to_the_bare_loop():
    printed = run("loop_overhead", "--pairs=2", "--block-seconds=0.02", "--case=a linear layer", "device=cpu")
    assert re.search(r"ours +\d+\.\d{3} \[\d+\.\d{3}, \d+\.\d{3}\] x bare +[+-]\d+ \[.*\] us per step", printed)
    assert f"torch {torch.__version__} with 1 thread(s)" in printed


def test_throughput_ends_with_a_share_of_the_resident_batchs():
    printed = run(
        "throughput", "--pairs=2", "--block-seconds=0.02", "--threads=1", "--data=digits", "model=tiny", "device=cpu"
    )
    assert re.search(r"ours / resident \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] of the images/s", printed)
    assert re.search(r"resident +[\d,]+ \[.*\] images/s +an epoch in \d+\.\d s", printed)


def test_loggers_end_with_a_ratio_to_the_run_without():
    printed = run("loggers", "--pairs=2", "--block-seconds=0.02", "--data=digits")
    assert re.search(r"logging: \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] x the run without; 2 rounds", printed)
    assert re.search(r"once: \d+\.\d\d s to start the three, \d+\.\d\d s to finish them", printed)


def test_joint_augmentation_ends_with_a_ratio_to_torchvisions():
    printed = run("joint_augmentation", "--pairs=2", "--block-seconds=0.02")
    assert re.search(r"ours in the worker / torchvision \d+\.\d\d \[.*\] of the images/s", printed)


def test_checkpoint_ends_with_the_share_of_a_run(tmp_path):
    printed = run("checkpoint", f"--folder={tmp_path}", "--megabytes=4", "--saves=2")
    assert re.search(r"share of a run +\d+\.\d\d %", printed)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_boxes_end_with_ratios_to_torchvision(tmp_path):
    run("photographs", str(tmp_path), "--count=70")
    printed = run("boxes", str(tmp_path), "--rounds=2", "--block-seconds=0.02", "--only", "ours", "torchvision")
    assert re.search(r"ours is as many times as fast as torchvision: wall \d+\.\d\d \[", printed)


def test_image_folder_ends_with_ratios_to_torchvision(tmp_path):
    assert "64 files" in run("photographs", str(tmp_path), "--count=64")
    settings = ("--rounds=2", "--block-seconds=0.01", "--only", "ours from the cache", "torchvision")
    printed = run("image_folder", str(tmp_path), *settings)
    row = r" \| \d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]" * 3
    assert re.search(rf"\| ours from the cache{row} \|", printed)
    assert re.search(rf"\| ours from the cache, compared with torchvision{row} \|", printed)


def test_the_bare_loop_does_the_same_tensor_work():
    command = [sys.executable, "-c", SAME_WORK]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# In a process of its own, because the benchmarks import one another as scripts do. Step 1 is the second of two batches.
SAME_WORK = """
import torch
from loop_overhead import Bare, loss_and_top1
from ours import ours

loop = ours(["data.batch_size=8", "device=cpu"])
bare = Bare(loop)
first, second = loop.trainer.data.train_batches(0, 2, seed=0)
bare.images, bare.labels = (torch.cat([first[name], second[name]]) for name in ("image", "label"))
bare.order, bare.step = torch.arange(16), 1

seen = loop.trainer.normalize(loop.trainer.prepare(second))
image, label = bare.batch()
assert torch.equal(image, seen["image"]) and torch.equal(label, seen["label"])
loss, scalars = loop.trainer.task.loss(loop.model, seen)
expected, top1 = loss_and_top1(bare.model, image, label)
assert torch.equal(loss, expected) and torch.equal(scalars["top1"], top1)
for key in ("weight_decay", "betas", "eps", "fused", "amsgrad"):
    assert loop.state.optimizer.defaults[key] == bare.optimizer.defaults[key], key
"""


def test_blocks_take_turns_and_have_equal_steps():
    calls = []

    def contender(name, pace):
        def train(steps):
            calls.append((name, steps))
            return steps * pace

        return train

    steps, times = pairs.rounds({"a": contender("a", 0.25), "b": contender("b", 0.5)}, pairs=4, block_s=1.0, warm_up=2)
    blocks = calls[-8:]
    assert steps == 4
    assert {number for _, number in blocks} == {4}
    assert times == {"a": [0.25] * 4, "b": [0.5] * 4}
    firsts = [name for name, _ in blocks[::2]]
    assert firsts.count("a") == firsts.count("b") == 2


def test_a_ratio_is_taken_within_its_round():
    times = {"a": [2.0, 30.0], "b": [1.0, 10.0]}
    assert pairs.ratios(times, "a", "b") == [2.0, 3.0]
    assert pairs.differences(times, "a", "b") == [1.0, 20.0]


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (15, 4, 12), (21, 6, 16), (25, 8, 18)])
def test_the_interval_is_the_sign_tests(n, low, high):
    """Ranks as in tables of the median's confidence interval, such as Conover's."""
    found = pairs.median(random.Random(0).sample(range(1, n + 1), n))
    assert (found.low, found.high, found.n) == (low, high, n)


def test_the_gpus_benchmark_writes_each_case_at_toy_size(tmp_path):
    run("gpu", "--device=cpu", f"--results={tmp_path}")
    written = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert written["versions"]["torch"].startswith("2.") and written["driver"] is None
    shares = [row for row in written["results"] if row.get("target")]
    assert {row["case"] for row in written["results"]} == {"resnet50", "vit", "folder", "loop", "fast"}
    assert all(row["low"] <= row["median"] <= row["high"] and row["runs"] == 2 for row in shares)
    table = (tmp_path / "speed_cpu.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in table) == 1 + len(written["results"])


def test_rounds_end_when_time_is_up_but_never_before_two():
    calm = pairs.rounds({"a": lambda steps: 1.0}, pairs=9, block_s=1.0, until=0.0)[1]
    assert len(calm["a"]) == 2


@pytest.mark.slow
def test_predict_ends_with_the_share_of_the_loaders_speed(tmp_path):
    run("photographs", str(tmp_path), "--count=24")
    printed = run("predict", str(tmp_path), "--files=16", "--blocks=2", "--size=32", "--workers=0")
    assert re.search(r"predict / loader \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] of the images/s; \d+\.\d s once", printed)


@pytest.mark.slow
def test_like_shapes_ends_with_what_a_square_costs():
    printed = run("like_shapes", "--pairs=2", "--short=64", "--batch=1")
    assert re.search(r"107 / \[64,107\]: \d\.\d{2} \[\d\.\d{2}, \d\.\d{2}\] x the time, \d\.\d{2} x the MACs", printed)
