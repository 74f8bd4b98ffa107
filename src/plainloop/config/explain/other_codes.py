"""What other training codes call the things that have a name here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from plainloop.config.explain.names import distance


@dataclass(frozen=True)
class Ours:
    """What to type instead. `{}` stands for the given value, `[{}ep]` for each item of a given list."""

    key: str  # "": nothing here is like it
    form: str = ""  # of an override; "" is "key={}"
    note: str = ""
    words: Mapping[str, str] = field(default_factory=dict)  # their value -> ours; that of "" is for all others

    def instead(self, value: str) -> str:
        """The override with its value; "" where there is nothing to type.

        >>> FOREIGN["lr_decay_epochs"].instead("[30,60]"), FOREIGN["num_epochs"].instead("90")
        ('scheduler=multistep scheduler.milestones=[30ep,60ep]', 'trainer.duration=90ep')
        >>> FOREIGN["accelerator"].instead("gpu"), FOREIGN["config"].instead("configs/mine.yml")
        ('device=cuda', 'experiment=mine')
        """
        if not self.key and not self.form:
            return ""
        form = self.form or f"{self.key}={{}}"
        value = self.words.get(value.lower(), self.words.get("", value)) or "..."
        if self.key == "experiment":
            value = PurePath(value).stem or "..."
        found = re.search(r"\[\{\}(\w*)\]", form)
        if found is None:
            return form.replace("{}", value)
        items = [item.strip() for item in value.strip("[]() ").split(",")]
        return form.replace(found[0], "[" + ",".join(item + found[1] for item in items if item) + "]")


_EPOCHS = Ours("trainer.duration", "trainer.duration={}ep")
_STEPS = Ours("trainer.duration", "trainer.duration={}st")
_SAVE = Ours("trainer.save_every", "trainer.save_every={}st", "how many are kept is checkpoint.keep_last")
_EVAL_OFF = Ours("trainer.eval_every", "trainer.eval_every=never")
_PER_DEVICE = Ours("data.batch_size_per_device", note="data.batch_size is the sum over all devices")
_GLOBAL = Ours("data.batch_size", note="global: over all devices and micro-batches")
_CLIP = Ours("trainer.clip_norm")
_DECAY = {"true": "0.999", "1": "0.999", "false": "null", "0": "null"}
_EMA = Ours("trainer.ema_decay", note="a decay switches it on: trainer.ema_decay=0.999", words=_DECAY)
_HALF = {"": "bf16", "false": "fp32", "0": "fp32", "fp16": "fp16", "float16": "fp16", "o1": "fp16", "o2": "fp16"}
_AMP = Ours("trainer.precision", note="bf16, or fp16 with a gradient scaler", words=_HALF)
_INIT = Ours("init_from", note="weights only; resume=<run dir> continues a run")
_LAUNCHED = Ours("trainer.devices", note="or torchrun --nproc-per-node=N train.py ...")
_MIN_LR = Ours("scheduler.min_lr")
_GAMMA = Ours("scheduler.gamma", "scheduler=multistep scheduler.gamma={}")
_ROOT = Ours("data.root", "data=image_folder data.root={}")
_KEEP = Ours("checkpoint.keep_last", note="the best one is kept beside them: checkpoint.save_best")
_MONITOR = Ours(
    "", note="the task says what is monitored (classification: top1); checkpoint.save_best=true keeps the best"
)

# By the last part of the key, `-` as `_`.
FOREIGN: dict[str, Ours] = {
    # PaddleX
    "lr_decay_epochs": Ours("scheduler.milestones", "scheduler=multistep scheduler.milestones=[{}ep]"),
    "lr_decay_gamma": _GAMMA,
    "num_epochs": _EPOCHS,
    "train_batch_size": _GLOBAL,
    "warmup_steps": Ours("scheduler.warmup", "scheduler.warmup={}st"),
    "warmup_epochs": Ours("scheduler.warmup", "scheduler.warmup={}ep"),
    "warmup_epoch": Ours("scheduler.warmup", "scheduler.warmup={}ep"),
    "warmup_start_lr": Ours("scheduler.warmup_start_lr"),
    "save_interval_epochs": Ours("trainer.save_every", "trainer.save_every={}ep"),
    "pretrain_weights": _INIT,
    "early_stop_patience": Ours("trainer.early_stop.patience"),
    # PaddleClas
    "l2_decay": Ours("optimizer.weight_decay"),
    "epochs": _EPOCHS,
    "ls_epsilon": Ours("task.label_smoothing"),
    "learning_rate": Ours("optimizer.lr"),
    "decay_epochs": Ours("scheduler.milestones", "scheduler=multistep scheduler.milestones=[{}ep]"),
    # PaddleSeg
    "iters": _STEPS,
    "resume_model": Ours("resume"),
    "save_dir": Ours("hydra.run.dir"),
    "save_interval": _SAVE,
    "do_eval": Ours("trainer.eval_every", "trainer.eval_every=500st", "validation is on unless never"),
    "use_vdl": Ours("logger", "logger=csv", "or wandb; metrics.jsonl is always written"),
    "log_iters": Ours("trainer.log_every", "trainer.log_every={}st"),
    "keep_checkpoint_max": _KEEP,
    # MMOCR and its family
    "total_epochs": _EPOCHS,
    "samples_per_gpu": _PER_DEVICE,
    "workers_per_gpu": Ours("data.num_workers"),
    "load_from": _INIT,
    "resume_from": Ours("resume"),
    "work_dir": Ours("hydra.run.dir"),
    "no_validate": _EVAL_OFF,
    "gpus": _LAUNCHED,
    "gpu_ids": Ours("trainer.devices", "trainer.devices=[{}]"),
    "launcher": Ours("hydra/launcher", note="under torchrun and Slurm ranks are found by themselves"),
    "cfg_options": Ours("", "{}", "overrides are written as they are, without a flag"),
    "checkpoint_config": Ours("trainer.save_every", "trainer.save_every=1ep"),
    "evaluation": Ours("trainer.eval_every", "trainer.eval_every=1ep"),
    "grad_clip": _CLIP,
    # timm
    "batch_size": _GLOBAL,
    "validation_batch_size": Ours("data.val.batch_size"),
    "lr": Ours("optimizer.lr"),
    "opt": Ours("optimizer"),
    "sched": Ours("scheduler"),
    "weight_decay": Ours("optimizer.weight_decay"),
    "wd": Ours("optimizer.weight_decay"),
    "momentum": Ours("optimizer.momentum", "optimizer=sgd optimizer.momentum={}"),
    "clip_grad": _CLIP,
    "clip_grad_norm": _CLIP,
    "max_grad_norm": _CLIP,
    "clip_mode": Ours("trainer.clip_norm", "trainer.clip_norm=1.0", "or trainer.clip_value, trainer.clip_agc"),
    "layer_decay": Ours("trainer.param_groups.layer_decay"),
    "warmup_lr": Ours("scheduler.warmup_start_lr"),
    "min_lr": _MIN_LR,
    "eta_min": _MIN_LR,
    "decay_milestones": Ours("scheduler.milestones", "scheduler=multistep scheduler.milestones=[{}ep]"),
    "decay_rate": _GAMMA,
    "smoothing": Ours("task.label_smoothing"),
    "label_smoothing": Ours("task.label_smoothing"),
    "ls": Ours("task.label_smoothing"),
    "drop": Ours("model.drop_rate", "+model.drop_rate={}"),
    "drop_path": Ours("model.drop_path_rate", "+model.drop_path_rate={}"),
    "model_ema": _EMA,
    "model_ema_decay": Ours("trainer.ema_decay"),
    "ema": _EMA,
    "amp": _AMP,
    "use_amp": _AMP,
    "fp16": Ours("trainer.precision", words={"": "fp16", "false": "fp32"}),
    "bf16": Ours("trainer.precision", words={"": "bf16", "false": "fp32"}),
    "amp_dtype": _AMP,
    "sync_bn": Ours("trainer.sync_batchnorm"),
    "workers": Ours("data.num_workers"),
    "data_dir": _ROOT,
    "grad_accum_steps": Ours("trainer.accumulate"),
    "torchcompile": Ours("trainer.compile", "trainer.compile=true"),
    "initial_checkpoint": _INIT,
    "log_interval": Ours("trainer.log_every", "trainer.log_every={}st"),
    "checkpoint_hist": _KEEP,
    "experiment_name": Ours("name"),
    "output": Ours("hydra.run.dir"),
    "num_classes": Ours("model.num_classes", note="it follows the data: leave it out"),
    # lightning-hydra-template and Lightning
    "max_epochs": _EPOCHS,
    "max_steps": _STEPS,
    "accelerator": Ours("device", note="auto, cpu, cuda, mps", words={"gpu": "cuda", "tpu": "auto", "ddp": "auto"}),
    "save_top_k": _KEEP,
    "save_last": _KEEP,
    "max_to_keep": _KEEP,
    "monitor": _MONITOR,
    "patience": Ours("trainer.early_stop.patience"),
    "min_delta": Ours("trainer.early_stop.min_delta"),
    "ckpt_path": Ours("resume", "resume={}", "a run directory; weights alone are init_from"),
    "gradient_clip_val": _CLIP,
    "gradient_clip_norm": _CLIP,
    "accumulate_grad_batches": Ours("trainer.accumulate"),
    "check_val_every_n_epoch": Ours("trainer.eval_every", "trainer.eval_every={}ep"),
    "val_check_interval": Ours("trainer.eval_every", "trainer.eval_every={}st"),
    "log_every_n_steps": Ours("trainer.log_every", "trainer.log_every={}st"),
    "every_n_epochs": Ours("trainer.save_every", "trainer.save_every={}ep"),
    "task_name": Ours("name"),
    "train_val_test_split": Ours("data.val_fraction"),
    # the common argparse words
    "epoch": _EPOCHS,
    "steps": _STEPS,
    "device_ids": Ours("trainer.devices", "trainer.devices=[{}]"),
    "devices": Ours("trainer.devices"),
    "precision": Ours("trainer.precision"),
    "duration": Ours("trainer.duration"),
    "ema_decay": Ours("trainer.ema_decay"),
    "root": _ROOT,
    "arch": Ours("model", "model=timm model.model_name={}"),
    "model_name": Ours("model.model_name", "model=timm model.model_name={}"),
    "resume": Ours("resume"),
    "pretrained": Ours("model.pretrained"),
    "seed": Ours("seed"),
    "deterministic": Ours("trainer.deterministic"),
    "num_workers": Ours("data.num_workers"),
    "config": Ours("experiment", note="a recipe is a file in conf/experiment; --config-dir adds a folder of them"),
    "config_file": Ours("experiment", note="a recipe is a file in conf/experiment"),
    "output_dir": Ours("hydra.run.dir"),
    "local_rank": Ours("", "", "it is read from the environment: leave it out"),
}


# By group, and by the name in small letters and digits alone.
OPTIONS: dict[str, dict[str, str]] = {
    "scheduler": {
        **dict.fromkeys(("poly", "polynomiallr", "polynomialdecay", "polylr", "polydecay"), "polynomial"),
        **dict.fromkeys(("piecewise", "piecewisedecay", "multisteplr", "multistepdecay"), "multistep"),
        **dict.fromkeys(("cosineannealinglr", "cosineannealingdecay", "cosineannealing", "cosinelr"), "cosine"),
        **dict.fromkeys(("cosinedecay", "cosineannealingwarmrestarts"), "cosine"),
        **dict.fromkeys(("warmupcosine", "cosinewithwarmup", "linearwarmupcosine"), "cosine_warmup"),
        **dict.fromkeys(("steplr", "stepdecay"), "step"),
        **dict.fromkeys(("exponentiallr", "exponentialdecay", "exp"), "exponential"),
        **dict.fromkeys(("onecyclelr", "1cycle", "superconvergence"), "onecycle"),
        **dict.fromkeys(("cycliclr", "triangular"), "cyclic"),
        **dict.fromkeys(("linearlr", "lineardecay", "linearwithwarmup"), "linear"),
        **dict.fromkeys(("constantlr", "none", "fixed", "null"), "constant"),
    },
    "optimizer": {"momentum": "sgd", "nesterov": "sgd", "adamweightdecay": "adamw", "fusedadam": "adam"},
    "data": dict.fromkeys(("imagenet", "imagenet1k", "ilsvrc2012", "folder", "imagefolder"), "image_folder"),
    "model": {"mobilenetv3": "mobilenetv3_small_100", "vit": "vit_small_patch16_224", "convnext": "convnext_tiny"},
    "augment": {"flip": "crop_flip", "crop": "crop_flip", "randomresizedcrop": "standard", "off": "none"},
    "logger": {"weightsandbiases": "wandb", "wb": "wandb", "json": "jsonl", "csvlogger": "csv", "off": "none"},
    "hydra/launcher": {"slurm": "submitit_slurm", "submitit": "submitit_slurm", "sbatch": "submitit_slurm"}
    | dict.fromkeys(("gpu", "gpus", "pool", "joblib"), "gpu_pool"),
}


def ours(key: str) -> Ours | None:
    """What a foreign key is called here; None when it is not known."""
    return FOREIGN.get(key.rpartition(".")[2].replace("-", "_").lower())


def ours_misspelt(key: str) -> Ours | None:
    """The same for a foreign key with a slip of the pen, where it is long enough to be told from others."""
    word = key.rpartition(".")[2].replace("-", "_").lower()
    near = [name for name in FOREIGN if min(len(word), len(name)) > 5 and distance(word, name, 1) == 1]
    return FOREIGN[near[0]] if near else None
