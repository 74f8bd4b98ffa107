"""What other training codes call the things that have a name here, and what they have that is not here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

# One row: their words | what to type here | a note. `{}` stands for the given value, `[{}ep]` for each item of a list.
# `value value: form` says what to type for these values; nothing behind the colon: leave the key out. A word with a
# dot is looked for with the part before it. Names whose last part is the same here need no row.
# The words are those of PaddleX, PaddleClas, PaddleSeg, MMOCR, timm, Lightning and common argparse scripts.
_KEYS = """
num_epochs epochs epoch total_epochs max_epochs | trainer.duration={}ep
iters steps max_steps max_iters total_iters | trainer.duration={}st
learning_rate base_lr init_lr | optimizer.lr={}
opt optimizer_name optimizer.type optimizer.name | optimizer={}
l2_decay wd | optimizer.weight_decay={}
momentum | optimizer=sgd optimizer.momentum={}
sched lr_scheduler lr_policy lr_config.policy scheduler.type scheduler.name | scheduler={}
lr_decay_epochs decay_epochs decay_milestones | scheduler=multistep scheduler.milestones=[{}ep]
lr_decay_gamma decay_rate lr_gamma | scheduler=multistep scheduler.gamma={}
warmup_steps warmup_iters | scheduler.warmup={}st
warmup_epochs warmup_epoch | scheduler.warmup={}ep
warmup_lr warmup_init_lr | scheduler.warmup_start_lr={}
eta_min end_lr | scheduler.min_lr={}
train_batch_size global_batch_size | data.batch_size={} | the sum over all devices and micro-batches
batch_size samples_per_gpu | data.batch_size_per_device={} | data.batch_size is the sum over all devices
validation_batch_size val_batch_size eval_batch_size | data.val.batch_size={}
workers_per_gpu workers | data.num_workers={}
data_dir data_path data_root dataset_root dataset_dir root | data=image_folder data.root={}
aug_repeats num_repeats ra_reps repeated_aug | data.repeats={}; true: data.repeats=3; false 0: data.repeats=1
weighted_sampler balanced_sampler class_balanced oversample use_weighted_sampler | data.sampler=class_balanced; \
false 0: data.sampler=shuffled
cls_label_path train_list file_list label_file labels_csv | data.labels={} | lines "path label", or rows file,label
train_val_test_split | ? | the nearest is data.val_fraction of data=image_folder: the share to validate on
mc_config | : | data.root is a folder; there is no memcached client
arch backbone net network model_type model_name | model={}
num_classes | : | it follows from the data
drop drop_path | ? | the nearest are +model.drop_rate=0.1 and +model.drop_path_rate=0.1, for models that take them
pretrain_weights pretrained_weights load_from initial_checkpoint finetune | init_from={}; \
imagenet coco cityscapes true default: model.pretrained=true; false none null: | weights only; resume continues a run
resume_model resume_from ckpt_path resume_from_checkpoint | resume={}; \
true 1 last latest auto: resume=auto; false 0 none null: | a run directory; weights alone are init_from
config config_file cfg | experiment={} | a recipe is a file in conf/experiment; --config-dir adds a folder of them
cfg_options opts | : | overrides are written as they are, without a flag
save_dir work_dir output output_dir log_dir out_dir | hydra.run.dir={} | name=... is the folder below outputs/; \
a sweep takes hydra.sweep.dir
experiment_name task_name exp_name run_name | name={}
save_interval save_freq checkpoint_interval | trainer.save_every={}st
save_interval_epochs every_n_epochs checkpoint_config.interval checkpoint_config | trainer.save_every={}ep
keep_checkpoint_max checkpoint_hist save_top_k save_last max_to_keep save_total_limit | checkpoint.keep_last={}; \
true false -1 0 1: checkpoint.keep_last=2 | the best one is kept beside them: checkpoint.save_best
log_iters log_interval log_every_n_steps print_freq logging_steps log_config.interval | trainer.log_every={}st
val_check_interval eval_interval eval_iters eval_steps | trainer.eval_every={}st
check_val_every_n_epoch eval_epochs evaluation.interval evaluation | trainer.eval_every={}ep
no_validate noval skip_validation | trainer.eval_every=never; false 0: | validation is on unless this is never
do_eval | : ; false 0: trainer.eval_every=never | validation is on unless this is never
use_vdl use_visualdl log_wandb wandb use_wandb | logger=wandb; false 0: | metrics.jsonl is always written
early_stop early_stopping early_stop_patience | trainer.early_stop.patience={}; \
true: trainer.early_stop.patience=10; false 0: trainer.early_stop.patience=null | evaluations without improvement
monitor metric_for_best_model eval_metric | : | the task says what is monitored (classification: top1)
ls_epsilon smoothing ls | task.label_smoothing={}; true: task.label_smoothing=0.1; false: task.label_smoothing=0.0
grad_clip clip_grad clip_grad_norm max_grad_norm gradient_clip_val gradient_clip_norm | trainer.clip_norm={}; \
true: trainer.clip_norm=1.0; false 0 none: trainer.clip_norm=null
clip_mode | trainer.clip_norm=1.0; value: trainer.clip_value=1.0; agc: trainer.clip_agc=0.01
model_ema ema use_ema | trainer.ema_decay={}; \
true 1: trainer.ema_decay=0.999; false 0: trainer.ema_decay=null | a decay switches it on
model_ema_decay | trainer.ema_decay={}
amp use_amp amp_dtype mixed_precision half | trainer.precision=bf16; false 0 no fp32 none: trainer.precision=fp32; \
fp16 float16 o1 o2: trainer.precision=fp16 | bf16, or fp16 with a gradient scaler
fp16 | trainer.precision=fp16; false 0: trainer.precision=fp32
bf16 | trainer.precision=bf16; false 0: trainer.precision=fp32
sync_bn syncbn | trainer.sync_batchnorm={}
grad_accum_steps accumulate_grad_batches gradient_accumulation_steps iters_to_accumulate | trainer.accumulate={}
torchcompile | trainer.compile=true; false 0: trainer.compile=false
allow_tf32 use_tf32 tf32_mode | trainer.tf32=true; false 0: trainer.tf32=false
random_seed manual_seed | seed={}
gpus num_gpus nproc_per_node | trainer.devices={}; all -1: trainer.devices=auto | or torchrun --nproc-per-node=N
gpu_ids device_ids gpu | trainer.devices=[{}]; all -1: trainer.devices=auto
accelerator | device={}; gpu: device=cuda; tpu ddp: device=auto | auto, cpu, cuda, mps
no_cuda | device=cpu; false 0: device=auto
use_gpu use_cuda | device=cuda; false 0: device=cpu
launcher | : ; slurm submitit: hydra/launcher=submitit_slurm | ranks are found by themselves, under torchrun and Slurm
local_rank rank world_size dist_url dist_backend strategy | : | it is read from the environment
fast_dev_run sanity_check | debug=one_batch; false 0:
overfit_batches overfit | debug=overfit; false 0:
dry_run | check=true; false 0:
mode | ? | train.py trains; a run evaluates as it goes, and writes val/... to metrics.jsonl
evaluate eval eval_only test test_only do_test validate | ? | a run evaluates as it goes; afterwards: \
python scripts/evaluate.py run=<run dir> split=val
predict do_predict infer inference | ? | python scripts/predict.py run=<run dir> images=<files, folder or pattern>
export onnx export_onnx torchscript jit | ? | python scripts/export.py run=<run dir> format=onnx
lr_find find_lr auto_lr_find lr_finder range_test | ? | python scripts/find_lr.py <the same overrides>
tune optuna hpo sweep_id | ? | the nearest is a grid: -m optimizer.lr=1e-3,1e-2 seed=0,1, or search=lr_x_seeds
aug_eval aug_test tta flip_horizontal | task.tta_flip=true; false 0: | with task=segmentation; \
task.tta_scales=[0.75,1.0,1.25] adds other sizes
is_slide slide | task.window=1024; false 0: | with task=segmentation: evaluation moves a window over larger images
freeze_bn frozen_bn norm_eval | trainer.freeze_batchnorm={}; true: trainer.freeze_batchnorm=true; \
false 0: trainer.freeze_batchnorm=false
freeze_backbone | trainer.freeze=backbone; false 0:
frozen_stages freeze_layers freeze_at | ? | the nearest is a pattern on parameter names: trainer.freeze=[stem*,layer1*]
freeze_epochs unfreeze_epoch unfreeze_at | trainer.freeze_until={}ep
kfold k_fold num_folds n_splits cross_validation | data.folds={}; false 0 none: | -m search=kfold runs all of them
tensorboard use_tensorboard tb | logger=tensorboard; false 0 none: | several: logger=[csv,tensorboard]
visualdl mlflow comet neptune clearml | ? | the nearest are logger=tensorboard and logger=wandb
mixup mixup_alpha | augment=mixup augment.mixup.alpha={}; false 0: ; \
true: augment=mixup | several: augment=[standard,mixup]
cutmix cutmix_alpha | augment=cutmix augment.cutmix.alpha={}; false 0: ; \
true: augment=cutmix | several: augment=[standard,cutmix]
reprob random_erasing re_prob | augment=random_erasing augment.random_erasing.p={}; false 0: ; \
true: augment=random_erasing | several: augment=[standard,random_erasing]
randaugment rand_augment | augment=randaugment; false 0: | several: augment=[standard,randaugment]
auto_augment autoaugment aa | augment=autoaugment; false 0: | \
or randaugment, trivialaugment, augmix; timm's words, such as rand-m9-mstd0.5-inc1: augment=timm_policy
color_jitter colorjitter jitter | augment=color_jitter augment.color_jitter.brightness={}; false 0: ; \
true: augment=color_jitter | several: augment=[standard,color_jitter]
profile profiler | debug=profile; false 0 none: |
teacher distill distillation | ? | task=distillation task.teacher=<run directory>
segmentation | task=segmentation; false 0: | with data=mask_folder and model=unet, for example
train_path val_path | data=mask_lists | data.root has train_list.txt and val_list.txt, with lines "image mask"
ann_file anno_file anno_path annotation_file | data=coco data.train.annotations={} | of val: data.val.annotations
ignore_label | data=mask_folder data.ignore_index={}
detection object_detection | task=detection; false 0: | with data=coco or voc_boxes and model=yolov3, for example
instance_segmentation | task=instance_segmentation; false 0: | with data=coco and model=mask_rcnn, for example
anchor anchors | model.anchors={} | of model=yolov3: 9 pairs, 3 for each of its maps; \
torchvision's models have model.anchor_sizes
ignore_threshold ignore_thresh | model.ignore_iou={} | of model=yolov3
nms_iou_threshold nms_threshold nms_thresh iou_thres | model.nms_iou={} | of model=yolov3; torchvision's: \
+model.box_nms_thresh=0.5
nms_score_threshold conf_thres score_thr | model.score_threshold={} | of model=yolov3; torchvision's: \
+model.box_score_thresh=0.05
nms_keep_topk keep_top_k max_per_img max_det | model.max_detections={} | of model=yolov3; torchvision's: \
+model.detections_per_img=100
with_fpn | : | model=faster_rcnn, mask_rcnn and the others of torchvision have a feature pyramid
with_dcn | ? | there are no deformable convolutions
train_random_shapes random_shapes multi_scale multiscale | augment=multi_scale; false 0: | of whole batches
mosaic mosaic_prob | augment=mosaic augment.mosaic.p={}; false 0: ; true: augment=mosaic | \
several: augment=[mosaic,yolo]
mixup_epoch | augment=mixup_boxes augment.mixup_boxes.until={}ep
target_size img_size imgsz input_size | data.image_size={}
metric | : ; coco: task.measure=coco; voc: task.measure=voc | the task says what is measured: task.measure of boxes
ocr | ? | the nearest is a task of your own: conf/task
auto_scale_batch_size find_batch_size | ? | python scripts/find_batch_size.py <the same overrides>
"""

# Group | our option: their words, in small letters and digits alone; more options
_OPTIONS = """
scheduler | polynomial: poly polylr polydecay; multistep: piecewise piecewisedecay; constant: none fixed; \
cosine: cosineannealinglr cosineannealingdecay cosineannealing; cosine_warmup: warmupcosine linearwarmupcosine
optimizer | sgd: momentum nesterov; adamw: adamweightdecay
data | voc: pascalvoc pascal voc2012; ade20k: ade; image_folder: imagenet imagenet1k ilsvrc2012; \
coco: cocodetection mscoco coco2017 cocodataset; voc_boxes: vocdetection voc2007
model | yolov3: yolo darknet53 yolov3darknet53; pp_liteseg: ppliteseg liteseg; deeplabv3plus: deeplabv3p deeplab \
deeplabv3; mobilenetv3_small_100: mobilenetv3; vit_small_patch16_224: vit; convnext_tiny: convnext
augment | crop_flip: flip crop; standard: randomresizedcrop; none: off
logger | wandb: weightsandbiases wb; none: off
hydra/launcher | submitit_slurm: slurm sbatch; gpu_pool: gpu gpus joblib
"""


@dataclass(frozen=True)
class Equivalent:
    forms: Mapping[str, str]  # given value, in small letters -> what to type; that of "" is for all others
    note: str = ""

    @property
    def absent(self) -> bool:
        """Whether this version has nothing like it."""
        return self.forms[""] == "?"

    def what(self, instead: str) -> str:
        key = (instead or self.instead("")).split(" ")[-1].partition("=")[0].lstrip("+")
        return f"here that is `{key}`" if key else "is not in this version" if self.absent else "is not needed here"

    def instead(self, value: str) -> str:
        """The overrides to type; "" where there is nothing to type.

        >>> lookup("lr_decay_epochs").instead("[30,60]"), lookup("num_epochs").instead("90")
        ('scheduler=multistep scheduler.milestones=[30ep,60ep]', 'trainer.duration=90ep')
        """
        form = self.forms.get(value.lower(), self.forms[""]).replace("?", "")
        listed = re.search(r"\[\{\}(\w*)\]", form)
        if listed is None:
            return form.replace("{}", value or "...")
        items = [item.strip() for item in value.strip("[]() ").split(",")]
        return form.replace(listed[0], f"[{','.join(item + listed[1] for item in items if item)}]")


@cache
def keys() -> dict[str, Equivalent]:
    """By their word: the last part of the key, or the last two; `-` as `_`."""
    found = {}
    for row in _KEYS.strip().splitlines():
        words, forms, note = (*(cell.strip() for cell in row.split("|")), "")[:3]
        by_value = {}
        for form in forms.split(";"):
            values, colon, text = form.rpartition(": ") if ": " in form else form.rpartition(":")
            by_value.update(dict.fromkeys(values.split() or [""], text.strip()) if colon else {"": form.strip()})
        found.update(dict.fromkeys(words.split(), Equivalent(by_value, note)))
    return found


@cache
def options() -> dict[tuple[str, str], str]:
    """By group and their word: our option."""
    found = {}
    for row in _OPTIONS.strip().splitlines():
        group, _, options = row.partition(" | ")
        for option, _, words in (text.partition(": ") for text in options.split("; ")):
            found.update(dict.fromkeys(((group, word) for word in words.split()), option))
    return found


def lookup(key: str) -> Equivalent | None:
    """What a key of another code is here; None when it is not known. What is absent here may be any part of the key."""
    parts = key.replace("-", "_").lower().split(".")
    found = keys().get(".".join(parts[-2:])) or keys().get(parts[-1])
    absent = [row for part in parts if (row := keys().get(part)) and row.absent]
    return found or next(iter(absent), None)
