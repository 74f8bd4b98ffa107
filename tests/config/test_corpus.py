"""Several hundred command lines: the wrong ones are refused, the right ones are not, and nothing wakes up."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop.config.explain import other_codes
from tests.harness.commands import COMPOSER, ROOT, problems

OPTIMIZERS = ["sgd", "rmsprop", "adam", "nadam", "adagrad", "adadelta", "adamw", "lamb", "lion", "muon"]
SCHEDULES = [
    "constant",
    "step",
    "polynomial",
    "exponential",
    "cosine",
    "cosine_warmup",
    "linear",
    "onecycle",
    "cyclic",
]
MODELS = ("tiny", "resnet20", "resnet32", "resnet18", "mobilenetv3_small_100", "efficientnet_b0")

_VALUES = """
    trainer.duration=1ep trainer.duration=90ep trainer.duration=1000st trainer.duration=0.5ep trainer.devices=1
    trainer.devices=2 trainer.devices=[0,1] trainer.devices=auto trainer.precision=bf16 trainer.precision=fp16
    trainer.accumulate=2 trainer.accumulate=64 trainer.clip_norm=1 trainer.clip_norm=0.1 trainer.clip_value=1e3
    trainer.clip_agc=0.01 trainer.ema_decay=0.999 trainer.ema_decay=null trainer.compile=true
    trainer.channels_last=true trainer.deterministic=true trainer.detect_anomaly=true trainer.log_every=7
    trainer.log_every=1ep trainer.log_every=5% trainer.eval_every=never trainer.eval_every=2ep trainer.eval_every=50st
    trainer.save_every=never trainer.save_every=1ep trainer.save_every=1% trainer.early_stop.patience=3
    trainer.early_stop.min_delta=0.01 trainer.lr_scaling.rule=linear trainer.lr_scaling.rule=sqrt
    trainer.lr_scaling.base_batch_size=128 trainer.tuned.batch_size=128 trainer.tuned.devices=4
    trainer.param_groups.no_decay=[norm,bias] trainer.param_groups.no_decay=[model] trainer.timeout_s=30
    trainer.find_unused_parameters=true trainer.static_graph=true trainer.on_nonfinite=skip trainer.max_skips=1
    seed=1 seed=123456789 name=a name=run-1_b.c device=cpu device=auto data.batch_size=32 data.batch_size=1
    data.batch_size=1438 data.val.batch_size=7 data.train.batch_size=128 data.num_workers=2 checkpoint.keep_last=3
    checkpoint.save_best=false checkpoint.every_minutes=10 checkpoint.every_minutes=null task.label_smoothing=0.1
    task.loss=bce task.class_weights=[1,1,1,1,1,1,1,1,1,2] model.width=8 model.drop_rate=0.5 optimizer.lr=1e-4
    optimizer.lr=1 optimizer.weight_decay=0 optimizer.betas=[0.8,0.9] optimizer.amsgrad=true optimizer.fused=false
    scheduler.warmup=0st scheduler.warmup=10% scheduler.warmup=2ep scheduler.min_lr=1e-6 logger=none logger=csv
    logger=[csv,jsonl] augment=crop_flip augment=[none,crop_flip] augment=standard debug=overfit debug=one_batch
    debug='nan' plugins=[my_package] init_from=null resume=auto data.batch_size_per_device=16 +optimizer.maximize=true
    ~experiment ~debug model.num_classes=10 +model.depth=2
"""
VALUES = [text for text in _VALUES.split() if text != "+model.depth=2"]
PAIRS = (
    "optimizer=sgd optimizer.momentum=0.95", "optimizer=sgd optimizer.nesterov=true", "optimizer=sgd optimizer.lr=0.5",
    "scheduler=multistep scheduler.milestones=[5ep,10ep]", "scheduler=multistep scheduler.milestones=[30%,60%]",
    "scheduler=multistep scheduler.milestones=[100st] scheduler.gamma=0.5", "scheduler=step scheduler.step_size=3ep",
    "scheduler=polynomial scheduler.power=0.9", "augment=crop_flip augment.crop.pad=2",
    "augment=crop_flip ~augment.flip",
    "augment=crop_flip augment.flip.p=0.1", "model=timm model.model_name=resnet18", "model=tiny model.width=16",
    "model=timm model.model_name=vit_tiny_patch16_224 +model.img_size=8 +model.patch_size=4",
    "trainer.devices=2 data.batch_size=128 trainer.accumulate=4", "trainer.duration=100st trainer.eval_every=10st",
    "search=lr_x_seeds seed=5", "experiment=schedule_yolov3 trainer.duration=270ep", "trainer.ema_decay=0.99 seed=2",
    "experiment=schedule_mmocr_textdet", "trainer.precision=fp16 trainer.on_nonfinite=skip", "hydra.run.dir=x/y seed=3",
    "optimizer=adadelta scheduler=onecycle scheduler.cycle_momentum=false", "debug=[nan,overfit]",
    "model=tiny model=resnet20",
    "optimizer=adadelta scheduler=cyclic scheduler.cycle_momentum=false", "hydra.sweep.subdir=a seed=4",
    "hydra/launcher=gpu_pool hydra.launcher.slots=2",
)  # fmt: skip
RIGHT = [
    *(
        [f"optimizer={a}", f"scheduler={b}"]
        for a, b in itertools.product(OPTIMIZERS, SCHEDULES)
        if a not in ("adadelta", "adagrad") or b not in ("onecycle", "cyclic")  # which has no momentum to cycle
    ),
    *([f"model={a}", f"optimizer={b}"] for a, b in itertools.product(MODELS, ("sgd", "adamw"))),
    *([text] for text in VALUES),
    *(text.split() for text in PAIRS),
]

_WRONG = """
    trainer.duration=5 trainer.duration=ep trainer.duration=-1ep trainer.duration=0st trainer.duration=5h
    trainer.duration=null trainer.devices=0 trainer.devices=-1 trainer.devices=two trainer.devices=[]
    trainer.devices=1.5 trainer.devices=[0,0] trainer.devices=[a] trainer.precision=fp8
    trainer.precision=32 trainer.precision=null
    trainer.accumulate=0 trainer.accumulate=-2 trainer.accumulate=1.5 trainer.accumulate=3 trainer.accumulate=x
    trainer.clip_norm=0 trainer.clip_norm=-1 trainer.clip_norm=x trainer.clip_value=0 trainer.clip_agc=-1
    trainer.ema_decay=0 trainer.ema_decay=1 trainer.ema_decay=2 trainer.compile=2 trainer.compile=yes!
    trainer.channels_last=maybe trainer.deterministic=1.0 trainer.log_every=0 trainer.log_every=-5
    trainer.log_every=never trainer.eval_every=0ep trainer.eval_every=5 trainer.eval_every=sometimes
    trainer.save_every=5 trainer.save_every=always trainer.early_stop.patience=0 trainer.early_stop.patience=x
    trainer.early_stop.min_delta=-1 trainer.lr_scaling.rule=square trainer.lr_scaling.base_batch_size=0
    trainer.tuned.batch_size=0 trainer.tuned.devices=x trainer.param_groups.no_decay=norm
    trainer.param_groups.layer_decay=2 trainer.param_groups.layer_decay=0 trainer.timeout_s=0 trainer.timeout_s=-1
    trainer.on_nonfinite=ignore trainer.max_skips=0 trainer.sync_batchnorm=2 seed=-1 seed=x seed=1.5 seed=null
    name=../x name=a/b name= name=.a name=null device=gpu device=mps device=cuda device=0 data.batch_size=0
    data.batch_size=-64 data.batch_size=x data.batch_size=1439 data.batch_size=1.5 data.val.batch_size=0
    data.num_workers=-1 data.num_workers=x checkpoint.keep_last=1 checkpoint.keep_last=all checkpoint.save_best=7
    checkpoint.every_minutes=0 checkpoint.every_minutes=x task.label_smoothing=1 task.label_smoothing=-0.1
    task.label_smoothing=x task.loss=mse task.class_weights=[1,2] task.class_weights=x model.width=wide model.width=1.5
    model.num_classes=7 model.in_chans=3 optimizer.lr=0 optimizer.lr=-1 optimizer.lr=abc optimizer.lr=.inf
    optimizer.lr=null optimizer.weight_decay=-1 optimizer.weight_decay=x optimizer.betas=[0.9] optimizer.betas=0.9
    optimizer.amsgrad=maybe optimizer.fused=3 optimizer=sdg optimizer= optimizer=3 optimizer=[sgd,adamw] ~optimizer
    scheduler=cosin scheduler.warmup=5 scheduler.warmup=40ep scheduler.warmup=x scheduler.min_lr=-1
    scheduler.min_lr=low scheduler=multistep,step model=tinny model=resnet model=null model=vit_small_patch16_224
    ~model ~model.num_classes data=mnist data=image_folder data= ~data task=detection ~task augment=mixupp
    augment.crop.pad=2 +augment=crop_flip ~augment logger=tensorbord logger= +logger=csv ~logger debug=x
    experiment=nothing search=x +optimizer.beta=0.9 +model.widht=64 +task.label_smothing=0.1 +data.batchsize=32
    +trainer.acumulate=2 +checkpoint.keep=2 +lr=0.1 lr=0.1 foo sede=1 learning_rate=0.1 trainer.max_epochs=5
    trainer.acumulate=2 model.depth.x=3 optimizer.lr=[1,2 optimizer.lr={a:1} seed=1,2 model=tiny,resnet18
    model._target_=os.system optimizer._target_=torch.load optimizer._target_=torch.optim.Adamw
    optimizer._partial_=false scheduler._target_=builtins.eval task._target_=subprocess.run
    +augment.blur={_target_:os.system}
    +logger.mine._target_=my_package.Logger +hydra.callbacks.mine._target_=os.system hydra.launcher._target_=os.system
    hydra.launcher.slots=2 hydra/launcher=joblib hydra/sweeper=optuna +logger.jsonl.api_key=abc +trainer.password=x
    data.batch_size=??? model.width=??? trainer.log_every=??? optimizer.lr=${nothing.there} trainer=5 checkpoint=x
    data.batch_size_per_device=0 data.batch_size_per_device=x +data.train.batch_size=x plugins=my_package plugins=5
    check=perhaps init_from=5 plugins={a:1} optimizer.betas=[2,2] optimizer.eps=-1 model.width=0 model.stem_stride=0
    model.width=-1 model.drop_rate=2 task.class_weights=[0,1,1,1,1,1,1,1,1,1] init_from=/nowhere.pth
    trainer.param_groups.no_decay=[nothing*] trainer.param_groups.layer_decay=0.5
"""
WRONG_PAIRS = (
    "data.batch_size_per_device=16 data.batch_size=64", "scheduler=multistep scheduler.milestones=[30,60]",
    "scheduler=multistep scheduler.milestones=[8ep,6ep]", "scheduler=multistep scheduler.gamma=0",
    "scheduler=multistep scheduler.milestones=[6ep,8ep] scheduler.warmup=133st", "trainer.devices=3 device=cpu",
    "trainer.eval_every=never trainer.early_stop.patience=3", "model=timm model.model_name=resent18",
    "model=timm model.model_name=resnet18 +model.drop_rat=0.1", "optimizer=sgd optimizer.momentum=1", "a=1 b=2 seed=3",
    "optimizer=sgd optimizer.betas=[0.9,0.9]", "trainer.sync_batchnorm=true trainer.devices=2 device=cpu",
    "data=image_folder data.root=/nowhere/at/all", "augment=crop_flip ~augment.crop.pad", "optimizer.lr=0.1 name=a/b",
    "augment=crop_flip augment.crop.pad=x", "scheduler=step scheduler.step_size=0ep",
    "debug=nan debug=overfit", "logger=csv logger=jsonl", "plugins=[torch] optimizer._target_=torch.load",
    "plugins=[os]",
    "scheduler=polynomial scheduler.power=0", "scheduler=cyclic trainer.duration=3st",
    "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0", "optimizer=lion optimizer.betas=[3,3]",
    "optimizer=timm optimizer.opt=sgdd", "optimizer=adadelta scheduler=onecycle", "augment=crop_flip augment.flip.p=2",
    "augment=crop_flip augment.crop.pad=-3", "augment=crop_flip augment.crop.pad=100",
    "augment=standard augment.crop.scale=[1,0.08]", "logger=wandb logger.wandb.project=a/b",
)  # fmt: skip
WRONG = [*([text] for text in _WRONG.split()), *(text.split() for text in WRONG_PAIRS)]
WRONG += [[f"{name}=7"] for name in list(other_codes.keys())[:30]]


def test_some_that_are_wrong_are_refused_and_some_that_are_right_are_not() -> None:
    assert [typed for typed in RIGHT[::25] if problems(*typed)] == []
    assert [typed for typed in WRONG[::12] if not problems(*typed)] == []


ALL = """
import os, sys
os.chdir(sys.argv[1])
from tests.config import test_corpus as corpus
kept = set(os.listdir("."))
wrong = [typed for typed in corpus.RIGHT if corpus.problems(*typed)]
missed = [typed for typed in corpus.WRONG if not corpus.problems(*typed)]
import torch
awake = {
    "cuda": torch.cuda.is_initialized(),
    "group": torch.distributed.is_initialized(),
    "wandb": getattr(sys.modules.get("wandb"), "run", None) is not None,  # timm imports it where it is installed
    "files": sorted(set(os.listdir(".")) - kept),
}
print(repr({"refused": wrong, "missed": missed, **awake}))
"""


@pytest.mark.slow
def test_all_that_are_wrong_are_refused_and_none_that_is_right_and_nothing_wakes_up(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", ALL, str(tmp_path)], env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = eval(done.stdout.splitlines()[-1], {"inf": float("inf")})  # our own repr
    assert found == {"refused": [], "missed": [], "cuda": False, "group": False, "wandb": False, "files": []}


def test_what_is_left_open_is_refused_wherever_it_is() -> None:
    from plainloop.config.nodes import key_paths

    keys = [key for key in key_paths(COMPOSER.compose([])) if key.split(".")[0] not in ("hydra", "resume", "check")]
    values = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    assert len(values) > 60
    missed = [key for key in values if "." in key and key not in problems(f"{key}=???")]
    assert missed == []
