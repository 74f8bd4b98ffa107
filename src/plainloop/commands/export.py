"""Writes the model of a run as a file for other programs, runs that file, and compares it with the model.

format=onnx is run with onnxruntime, torch_export in a fresh process without this code, safetensors is loaded into a
new model. They are compared on the first validation images, or on noise where the data are not on this machine. A
detector gives objects: the choice among boxes that overlap is in the file. Batches may have any size, images have one:
that of the data set, or size=; a run with wide and tall images gives a file for each. Preprocessing and class names are
in the file. quantize=int8 (of onnx) needs the run's data: training images to calibrate, validation images to measure.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainloop.commands.composed import (
    RUN_WORDS,
    answer,
    arguments_for,
    parse_words,
    parser_of,
    plugins_of,
    refuse_others,
    say,
    take_word,
)
from plainloop.errors import BadConfig, BadData, RunError, counted
from plainloop.loggers.screen import counting, working

if TYPE_CHECKING:
    from torch import Tensor

    from plainloop.contracts import Batch, Split
    from plainloop.run.trained.difference import Arrays, Difference
    from plainloop.run.trained.export import Graph
    from plainloop.run.trained.open import Trained

EXAMPLES = (
    "run=outputs/train/2026-01-31_12-00-00-000000 format=onnx",
    "run=<run dir> format=onnx quantize=int8 data.root=/data/pets",
    "run=<run dir> format=torch_export checkpoint=last size=512x1024 --out outputs/exported",
)
WORDS = ("run", "format", "quantize", "checkpoint", "size", "data.root", "plugins")
FORMATS = {"onnx": "model.onnx", "torch_export": "model.pt2", "safetensors": "model.safetensors"}
ONNX = ("onnx", "onnxscript", "onnxruntime")
HELP_OF = RUN_WORDS | {
    "format=F": ", ".join(FORMATS),
    "quantize=int8": "also writes model.int8.onnx, and the accuracy before and after",
    "size=S": "of the images, 224 or height x width: 512x1024 (that of the data set)",
    "data.root=D": "where the data are now",
}
CALIBRATION = 256  # training images


def main(arguments: Sequence[str]) -> int:
    """`python scripts/export.py`; the exit code."""
    parser = parser_of("export", __doc__ or "", EXAMPLES)
    parser.usage = "python scripts/export.py run=<run dir> format=<onnx, torch_export or safetensors> [options]"
    parser.add_argument("--out", type=Path, help="the folder for the files (<run dir>/export)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="largest difference, as a part of the largest output (%(default)s)",
    )
    options, words = parse_words(parser, arguments, HELP_OF)
    return answer(lambda: export(words, options))


def export(words: list[str], options: argparse.Namespace) -> int:
    given = {name: take_word(name, words) for name in WORDS}
    refuse_others(words, WORDS)
    for name, value in (("run", "<run dir>"), ("format", "onnx")):
        if not given[name]:
            raise BadConfig(f"{name}= is missing", hint=f"add {name}={value}; --help has examples")
    kind, quantize = str(given["format"]), given["quantize"]
    if kind not in FORMATS:
        raise BadConfig(f"format={kind} must be {', '.join(FORMATS)}", hint="type format=onnx")
    if quantize and (quantize != "int8" or kind != "onnx"):
        raise BadConfig(
            f"quantize={quantize} with format={kind} is not possible", hint="type quantize=int8 format=onnx"
        )
    if kind == "onnx" and (missing := [name for name in ONNX if find_spec(name) is None]):
        raise BadConfig(
            f"format=onnx needs packages that are not installed: {', '.join(missing)}",
            hint=f"type pip install {' '.join(missing)}, or format=torch_export",
        )
    from plainloop.run.trained.export import only_of
    from plainloop.run.trained.folder import run_of_file
    from plainloop.run.trained.open import open_run
    from plainloop.system import storage

    folder, checkpoint = run_of_file(Path(str(given["run"])).expanduser(), given["checkpoint"])
    trained = open_run(folder, checkpoint or "best", device="cpu", plugins=plugins_of(given["plugins"]))
    shapes = shapes_of(trained, given["size"])
    out = options.out or folder / "export"
    storage.make_folder(out)
    path = out / FORMATS[kind]
    say(f"run     {folder}: {trained.weights}")
    if kind == "safetensors":
        return export_safetensors(trained, path, shapes[0], given["data.root"])
    for shape in shapes:
        file = path if shape is shapes[0] else path.with_stem(f"{path.stem}_tall")
        export_graph(trained, kind, file, shape, options.tolerance, quantize=bool(quantize), root=given["data.root"])
    if given["size"] and only_of(trained, shape):
        say(f"note    size={shape[2]}x{shape[1]} --out <another folder> makes the file for the others")
    return 0


def shapes_of(trained: Trained, size: str | None) -> list[list[int]]:
    """(C, H, W) of the images of each file: a wide and a tall one where the run has both. Raises BadConfig."""
    from plainloop.run.trained.export import only_of

    channels, height, width = own = trained.config["facts"]["image_shape"]
    if size is None:
        return [own, [channels, width, height]] if only_of(trained, own) else [own]
    if not (found := re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", size)):
        raise BadConfig(
            f"size={size} must be a number of pixels, or height x width", hint="type size=224 or size=512x1024"
        )
    return [[channels, int(found[1]), int(found[2] or found[1])]]


def export_graph(
    trained: Trained, kind: str, path: Path, shape: Sequence[int], tolerance: float, *, quantize: bool, root: str | None
) -> None:
    from plainloop.run.trained import export as exporting

    graph = exporting.Graph(trained).eval()
    with working("exporting"):
        program, names = exporting.traced(graph, trained, shape)
        needs = exporting.needs_of(program) if kind == "torch_export" else []
        about = exporting.about_export(trained, shape, names, needs)
        if kind == "onnx":
            exporting.write_onnx(program, path, about, names, trained)
        else:
            exporting.write_torch_export(program, path, about)
    run = exporting.run_onnx if kind == "onnx" else functools.partial(exporting.run_torch_export, needs=needs)
    with working("comparing"), exporting.telling_what_cannot(FORMATS[kind], trained):
        images, what = images_to_compare(trained, shape, root)
        compare(trained, graph, images, tolerance, lambda batch: run(path, batch, names), path, what)
    say(f"written {path}: {size_of(path)}")
    say(f"        image (any, {', '.join(map(str, shape))}) -> {', '.join(names)}")
    if which := exporting.only_of(trained, shape):
        say(f"        for {exporting.TAKES[which]}")
    if quantize:
        quantized(trained, names, path, root)


def images_to_compare(trained: Trained, shape: Sequence[int], root: str | None) -> tuple[Tensor, str]:
    """Validation images as the model sees them, or noise where the data are not on this machine; and which it is."""
    import torch

    from plainloop.run.trained import export as exporting

    number, which = sum(exporting.BATCHES), exporting.only_of(trained, shape)
    try:
        images = validation_images(trained, shape, which, number, root)
    except RunError as error:
        if root:
            raise
        say(f"note    compared on noise, for the data cannot be read here: {error}")
        say("        data.root=<folder> says where they are")
        return exporting.examples(trained, shape, number), f"{number} images of noise"
    if not images:
        say(f"note    compared on noise, for the validation set has no {which} image")
        return exporting.examples(trained, shape, number), f"{number} images of noise"
    return torch.cat(images), counted(len(images), f"{which} val image".lstrip())


def validation_images(trained: Trained, shape: Sequence[int], which: str, most: int, root: str | None) -> list[Tensor]:
    """The first ones (1, C, H, W), of all or of wide or tall ones, resized where evaluation gives another size."""
    from torch.nn import functional as F

    found: list[Tensor] = []
    with contextlib.closing(batches(trained, "val", root, download=False)) as every:
        for batch in every:
            height, width = batch["image"].shape[-2:]
            if which and which != ("tall" if height > width else "wide"):
                continue
            found += trained.prepare({"image": batch["image"][: most - len(found)]})["image"]
            if len(found) == most:
                break
    if not found and not which:
        raise BadData("the validation set has no images")
    return [F.interpolate(one[None], tuple(shape[1:]), mode="bilinear", antialias=True) for one in found]


def compare(
    trained: Trained,
    graph: Graph,
    images: Tensor,
    tolerance: float,
    run: Callable[[Tensor], Arrays],
    path: Path,
    what: str,
) -> None:
    """Prints how large the differences are. Raises RunError where they are too large."""
    from plainloop.run.trained import export as exporting
    from plainloop.run.trained.difference import differences, num_compared

    threshold = getattr(trained.model, "score_threshold", -1.0)
    worst: dict[str, Difference] = {}
    objects: list[int] = []
    for batch in images.tensor_split(list(itertools.accumulate(exporting.BATCHES))):
        if not len(batch):
            break
        ours = exporting.outputs_of(graph, batch)
        theirs = run(batch)
        found = differences(ours, theirs, threshold=threshold)
        worst = {name: max(found[name], worst.get(name, found[name]), key=lambda one: one.most) for name in found}
        objects += [num_compared(ours, theirs, threshold)] if "boxes" in ours else []
    for one in worst.values():
        if not one.is_within(tolerance):
            raise RunError(
                f"{path}: {one.text} differ from the model's on {what}: more than --tolerance {tolerance:g} allows",
                hint="do not use this file; the other formats may be exact, such as format=torch_export",
            )
    how = ", ".join(one.text for one in worst.values() if one.most)
    seen = f"{counted(sum(objects), 'object')}, {what}" if objects else what
    say(f"equal   {f'up to {how}' if how else 'to the last bit'}: {seen}")
    if objects and not any(objects):
        say("note    the model is sure of no object in these images: no box has been compared")


def quantized(trained: Trained, names: Sequence[str], path: Path, root: str | None) -> None:
    """Writes the model with 8 bits beside the other, and prints the metrics of both on the validation images."""
    from plainloop.run.trained.export import LOGITS
    from plainloop.run.trained.quantize import metrics_of_onnx, quantize_int8

    if not {LOGITS, "boxes"} & {*names}:
        raise BadConfig(f"quantize=int8: the task {type(trained.task).__name__} gives no logits or boxes to measure")
    small = path.with_name("model.int8.onnx")
    with working("calibrating"):
        train = batches(trained, "train", root)
        used = quantize_int8(path, small, trained, train, at_most=CALIBRATION)
    with counting("evaluating") as tell:
        before, after = (
            metrics_of_onnx(file, trained, batches(trained, "val", root), names, tell) for file in (path, small)
        )
    say(f"written {small}: {size_of(small)}, calibrated on {used} training images")
    for name in before:
        say(f"val/{name:14} {before[name]:.4f} before, {after[name]:.4f} with int8")


def batches(trained: Trained, split: Split, root: str | None, **changed: Any) -> Generator[Batch]:
    """Of the run's data, un-augmented."""
    from plainloop.config.durations import clock_of
    from plainloop.config.parts import build_data, make_part
    from plainloop.loop.stopwatch import closing_workers

    changed |= {"device": "cpu", "train_eval_samples": CALIBRATION} | ({"root": root} if root else {})
    config = arguments_for(trained.config, **{k: v for k, v in changed.items() if k in trained.config["data"]})
    config |= {"augment": {}}
    data, _ = build_data(config, functools.partial(make_part, config, clock_of(config)))
    with closing_workers(data.eval_batches(split)) as found:
        yield from found


def export_safetensors(trained: Trained, path: Path, shape: Sequence[int], root: str | None) -> int:
    import copy
    from dataclasses import replace

    from plainloop.run.description import describe, timm_config
    from plainloop.run.trained import export as exporting
    from plainloop.run_dir.weights import load_weights, save_weights
    from plainloop.system import storage

    about = describe(trained.config)
    save_weights(trained.model, path, about)
    if found := timm_config(trained.config, trained.model, about):
        import timm

        storage.write_json(path.with_name("config.json"), found)
        again = timm.create_model(f"local-dir:{path.parent}", pretrained=True).eval()
    else:
        again = copy.deepcopy(trained.model)
        for tensor in again.state_dict().values():  # without what belongs to the model's code, such as anchors
            tensor.zero_()
        load_weights(again, path)
    graph, other = (exporting.Graph(replace(trained, model=model)).eval() for model in (trained.model, again))
    images, what = images_to_compare(trained, shape, root)
    compare(trained, graph, images, 0.0, lambda batch: exporting.outputs_of(other, batch), path, what)
    say(f"written {path}: {size_of(path)}")
    if found:
        say(f'timm loads it: timm.create_model("local-dir:{path.parent}", pretrained=True)')
    return 0


def size_of(path: Path) -> str:
    from plainloop.system.storage import readable_size

    return readable_size(
        sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}.data")) if file.exists())
    )
