"""A trained model as a file that runs without this code; what was written is run again and compared with the model."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plainloop.config.parts import preprocessing_of
from plainloop.contracts import Batch
from plainloop.errors import BadConfig, BadData, RunError
from plainloop.run.description import describe
from plainloop.run.trained.difference import Arrays
from plainloop.run.trained.open import Trained
from plainloop.system import storage

LOGITS = "logits"
BATCHES = (1, 3, 4)  # what is tried; none is the size that the graph is made with
EXAMPLES = 2
MEANING = {
    LOGITS: "float32: the model's own numbers, before they become probabilities",
    "label": "float32 (batch, classes): the probability of each class",
    "mask": "int64 (batch, height, width): the number of the class of each pixel",
    "boxes": "float32 (batch, N, 4): x0 y0 x1 y1 in pixels of the input, the best first",
    "box_label": "int64 (batch, N): the number of the class, from 0",
    "box_score": "float32 (batch, N): in [0, 1]",
    "box_valid": "bool (batch, N): true for objects; N is always the same, and the rows after them are 0",
    "instance_mask": "bool (batch, N, height, width): the pixels of each object",
}
TAKES = {"wide": "images that are at least as wide as high", "tall": "images that are higher than wide"}
# What the exporters raise for a model that they cannot follow, and the model itself for an image that it does not take.
CANNOT = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, KeyError, IndexError)

# Runs in a process that knows nothing of this code.
IN_A_FRESH_PROCESS = """
import sys, numpy, torch
for name in sys.argv[4:]: __import__(name)
program = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    outputs = program(torch.from_numpy(numpy.load(sys.argv[2])))
numpy.savez(sys.argv[3], *[output.numpy() for output in outputs])
"""


class Graph(nn.Module):
    """Normalized images (B, C, H, W) to the task's prediction, if that is one tensor, and to its results."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model, self.task = trained.model, trained.task

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs(image).values())

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        batch: Batch = {"image": image}
        prediction = self.task.predict(self.model, batch)
        outputs = {LOGITS: prediction} if isinstance(prediction, Tensor) else {}
        if hasattr(self.task, "results"):
            outputs |= self.task.results(prediction, batch)
        return outputs


def outputs_of(graph: Graph, images: Tensor) -> Arrays:
    with torch.no_grad():
        return {name: values.numpy() for name, values in graph.outputs(images).items()}


def examples(trained: Trained, image_shape: Sequence[int], number: int) -> Tensor:
    """Images of noise, as the model sees them."""
    noise = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (number, *image_shape), generator=noise, dtype=torch.uint8)
    return trained.prepare({"image": pixels})["image"]


def only_of(trained: Trained, image_shape: Sequence[int]) -> str:
    """`wide` or `tall`, where a file of this shape (C, H, W) is for such images alone; else "".

    A run with data.image_size=[96,160] gives wide images one shape, and tall ones the other.
    """
    try:
        preprocessing = preprocessing_of(trained.config)
    except BadData:  # no image comes from a file
        return ""
    _, height, width = image_shape
    if preprocessing.one_size or not preprocessing.letterboxed or height == width:
        return ""
    return "tall" if height > width else "wide"


def traced(
    graph: Graph, trained: Trained, image_shape: Sequence[int]
) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """The model as a graph for batches of any size and images of one, and its outputs' names. Raises BadConfig."""
    images, batch = examples(trained, image_shape, EXAMPLES), torch.export.Dim("batch", min=1)
    with telling_what_cannot("torch.export", trained), quiet():
        names = tuple(outputs_of(graph, images))
        return torch.export.export(graph, (images,), dynamic_shapes=({0: batch},)), names


def write_torch_export(program: torch.export.ExportedProgram, path: Path, about: Mapping[str, str]) -> None:
    """Writes a file of torch.export, with each text of `about` as an extra file of that name."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files=dict(about))
    storage.write_whole(path, content.getbuffer())


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, about: Mapping[str, str], names: Sequence[str], trained: Trained
) -> None:
    """Writes an ONNX file with `about` as its metadata. Raises BadConfig."""
    with telling_what_cannot("ONNX", trained), quiet():
        found = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["image"], output_names=[*names])
        assert found is not None
        found.model.metadata_props.update(about)
        path.unlink(missing_ok=True)
        found.save(str(path))


def run_onnx(path: Path, images: Tensor, names: Sequence[str]) -> Arrays:
    """What onnxruntime computes on the CPU."""
    return dict(zip(names, session(path).run(None, {"image": images.numpy()}), strict=True))


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of what it optimizes
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_torch_export(path: Path, images: Tensor, names: Sequence[str], needs: Sequence[str] = ()) -> Arrays:
    """What a fresh process computes that loads the file with torch, and what else the file needs. Raises RunError."""
    with tempfile.TemporaryDirectory() as folder:
        given, computed = Path(folder, "images.npy"), Path(folder, "outputs.npz")
        np.save(given, images.numpy())
        words = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(path.absolute()), str(given), str(computed), *needs]
        ended = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        if ended.returncode:
            raise RunError(f"{path} cannot be loaded in a fresh process: {(ended.stderr.splitlines() or ['?'])[-1]}")
        with np.load(computed) as found:
            return dict(zip(names, (found[f"arr_{i}"] for i in range(len(names))), strict=True))


def needs_of(program: torch.export.ExportedProgram) -> list[str]:
    """The packages beside torch that must be imported before a file of torch.export can be loaded."""
    spaces = {getattr(node.target, "namespace", "") for node in program.graph.nodes}
    return sorted(spaces & {"torchvision"})


def about_export(
    trained: Trained, image_shape: Sequence[int], names: Sequence[str], needs: Sequence[str]
) -> dict[str, str]:
    """What the file says of itself: each value as JSON."""
    found = describe(trained.config) | {
        "image_shape": list(image_shape),
        "input": "image: float32 (batch, channels, height, width), RGB in [0, 1], minus mean, divided by std",
        "outputs": list(names),
        "output_meaning": {name: MEANING[name] for name in names if name in MEANING},
        "needs": list(needs),
        "weights": trained.weights,
    }
    if which := only_of(trained, image_shape):
        found["takes"] = TAKES[which]
    return {key: json.dumps(value) for key, value in found.items()}


@contextlib.contextmanager
def telling_what_cannot(what: str, trained: Trained) -> Iterator[None]:
    try:
        yield
    except CANNOT as error:
        lines = [line.strip() for line in f"{error}".splitlines() if line.strip()]
        node = trained.config["model"]
        name = node.get("model_name") or node.get("architecture") or type(trained.model).__name__
        why = (lines or ["no reason given"])[0]
        raise BadConfig(
            f"the model {name} cannot be exported by {what}: {type(error).__name__}: {why}",
            hint="its code has a step that depends on values; images of another size may help: size=224; "
            "format=safetensors writes the weights of every model",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters tell their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
