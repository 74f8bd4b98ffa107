"""What torchvision's detectors find as a graph, in which no shape depends on values, is what they find."""

from __future__ import annotations

import pytest
import torch

from plainloop.models.detection.torchvision_graph import graph_detections, weights_along
from plainloop.models.detection.torchvision_models import ARCHITECTURES, TWO_STAGES
from plainloop.run.trained.difference import differences
from tests.harness.detectors import sure_detector

HEIGHT, WIDTH = 60, 90  # torchvision pads to 64 and 96
CLOSE = 1e-4  # pixels and probabilities: sums in another order


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_graph_finds_what_the_model_finds(architecture: str) -> None:
    model, draw = sure_detector(architecture, num_classes=3), torch.Generator().manual_seed(1)
    image = torch.randn(3, 3, HEIGHT, WIDTH, generator=draw)
    with torch.no_grad():
        own, found = model(image), graph_detections(model.detector, image)
        (model.detector.roi_heads if architecture in TWO_STAGES else model.detector).nms_thresh = 0.3
        other = graph_detections(model.detector, image)
    assert found["boxes"].shape == (3, 40, 4) and own["box_valid"].sum() > 60
    arrays = [{name: values.numpy() for name, values in one.items()} for one in (own, found, other)]
    same, changed = (differences(arrays[0], others) for others in arrays[1:])
    assert all(one.most < CLOSE for one in same.values())
    assert changed["boxes"].most > 1


def test_a_mask_is_enlarged_to_its_pixels_as_torch_does_it() -> None:
    mask = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(mask, (9, 20), mode="bilinear")[0, 0]
    first, last = torch.tensor([5, 3]), torch.tensor([24, 11])
    columns, rows = weights_along(first[:1], last[:1], 40, 7)[0], weights_along(first[1:], last[1:], 30, 7)[0]
    pasted = rows @ mask[0, 0] @ columns.T
    torch.testing.assert_close(pasted[3:12, 5:25], expected)
    pasted[3:12, 5:25] = 0
    assert not pasted.any()
