"""Eight-bit weights and activations of an ONNX model, by onnxruntime, and the metrics of an ONNX model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plainloop.contracts import Batch
from plainloop.errors import BadConfig
from plainloop.run.trained.export import LOGITS, quiet, session
from plainloop.run.trained.open import Trained
from plainloop.tasks.boxes.inside import inside

KINDS = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # nearly all of the time; the rest stays as it is


class Images:
    """Calibration images, in the form that onnxruntime asks for."""

    def __init__(self, images: Iterator[NDArray[Any]]) -> None:
        self.images = images

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        image = next(self.images, None)
        return None if image is None else {"image": image}


def quantize_int8(source: Path, path: Path, trained: Trained, batches: Iterable[Batch], *, at_most: int) -> int:
    """Writes the model with whole numbers of 8 bits; the ranges of its activations are those of the batches.

    Returns how many images it was calibrated on. Raises BadConfig for images of another size.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    used, expected = 0, size_of(session(source))

    def images() -> Iterator[NDArray[Any]]:
        nonlocal used
        for batch in batches:
            found = trained.prepare({"image": batch["image"][: at_most - used]})["image"].numpy()
            require_size(found, expected)
            used += len(found)
            yield found
            if used >= at_most:
                return

    with tempfile.TemporaryDirectory() as folder, quiet():
        ready = Path(folder, "ready.onnx")
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(path),
            Images(images()),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(KINDS),
        )
    before, after = onnx.load(str(source)), onnx.load(str(path))
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    onnx.save(after, str(path))
    return used


def metrics_of_onnx(
    path: Path, trained: Trained, batches: Iterable[Batch], names: Sequence[str], tell: Callable[[int], None]
) -> dict[str, float]:
    """The task's metrics, with the logits or objects that onnxruntime computes.

    Raises BadConfig for images of another size.
    """
    found, metrics, seen = session(path), trained.task.metrics(), 0
    expected = size_of(found)
    for batch in batches:
        ready = trained.prepare(batch)
        image = ready["image"].numpy()
        require_size(image, expected)
        computed = map(torch.from_numpy, found.run(None, {"image": np.ascontiguousarray(image)}))
        outputs = dict(zip(names, computed, strict=True))
        metrics.update(inside(outputs, ready) if "boxes" in outputs else outputs[LOGITS], ready)
        seen += len(image)
        tell(seen)
    return metrics.compute()


def size_of(model: Any) -> tuple[int, ...]:
    """(C, H, W) of the images that the model of a session takes."""
    return tuple(model.get_inputs()[0].shape[1:])


def require_size(images: NDArray[Any], expected: tuple[int, ...]) -> None:
    if images.shape[1:] != expected:
        own, other = (f"{shape[1]}x{shape[2]}" for shape in (images.shape[1:], expected))
        raise BadConfig(
            f"quantize=int8 cannot use the run's data: an image is {own}, and this model takes {other}",
            hint=f"type size={own} if all images have that size; else leave quantize=int8 out",
        )
