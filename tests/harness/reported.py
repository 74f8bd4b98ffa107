"""A run's folder to make a report of: the golden run, with rows of many epochs, an evaluation and names of classes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from plainloop.run_dir.evaluation import write_evaluation
from plainloop.tasks.classification import Classification
from tests.harness.configs import ROOT
from tests.loop.test_collect import collect

GOLDEN = ROOT / "tests" / "lifecycle" / "golden_run" / "sweep" / "0"
HOSTILE = "</script><script>document.title='bad'</script><b>&amp;"


def run_folder(folder: Path, *, epochs: int = 5, rows_per_epoch: int = 2, names: Sequence[str] = ()) -> Path:
    """`names` replace those of the first classes."""
    shutil.copytree(GOLDEN, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    facts = config["facts"]
    facts["class_names"] = [*names, *facts["class_names"][len(names) :]]
    config["trainer"]["duration"] = f"{epochs}ep"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    steps_per_epoch = facts["num_train"] // config["data"]["batch_size"]
    rows = []
    for number in range(1, epochs * rows_per_epoch + 1):
        epoch = number / rows_per_epoch
        row = {"step": round(epoch * steps_per_epoch), "epoch": epoch, "train/loss": math.exp(-epoch / 9) + 0.05}
        row |= {"train/lr": 0.1, "time/step_s": 0.01, "time/data_s": 0.004, "time/images_per_s": 5e3}
        row |= {"time/prepare_s": 0.001, "time/optimizer_s": 0.002, "time/save_s": 0.001}
        if number % rows_per_epoch == 0:
            row |= {"val/loss": 0.5, "val/top1": epoch / (epoch + 1), "train_eval/top1": 0.9, "time/eval_s": 0.01}
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    number = len(facts["class_names"])
    generator = torch.Generator().manual_seed(0)
    samples = {
        "logits": torch.randn(400, number, generator=generator),
        "label": torch.arange(400) % number,
        "index": torch.arange(400),
        "image": torch.randint(0, 256, (400, 3, 8, 8), generator=generator, dtype=torch.uint8),
    }
    found = collect(Classification(num_classes=number), samples)
    write_evaluation(folder, found, split="val", step=rows[-1]["step"], metrics={"top1": 0.1})
    return folder
