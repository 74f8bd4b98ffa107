"""A loaded model says of an image what the run's evaluation says of it, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop import load
from plainloop.config.durations import clock_of
from plainloop.config.parts import make_part
from plainloop.contracts import Batch
from plainloop.errors import BadConfig, BadData
from plainloop.run.trained.files import find_images
from plainloop.run.trained.predictor import Prediction, Predictor, of_size
from plainloop.tasks.boxes.found import found_in
from tests.harness.photos import photograph
from tests.harness.trained import train_runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_runs(tmp_path_factory.mktemp("runs"), "photos", "digits", "masks", "boxes")


def evaluated(model: Predictor) -> Batch:
    """The first validation batch, and the results of the task as an evaluation has them."""
    config = model.trained.config
    batch = next(make_part(config, clock_of(config), "data").eval_batches("val"))
    return batch | {f"predicted {k}": v for k, v in model.results({"image": batch["image"]}).items()}


def test_a_photograph_gets_the_probabilities_of_an_evaluation(place: Path) -> None:
    model = load(place / "photos")
    config = model.trained.config
    source = make_part(config, clock_of(config), "data")
    expected = evaluated(model)
    files = [place / "set" / path.decode() for path in source.images["val"].paths][: len(expected["label"])]
    found = model(files)
    by_class = [[one.probabilities[name] for name in model.class_names] for one in found]
    assert by_class == expected["predicted label"].tolist()
    assert model([Image.open(file) for file in files]) == found
    assert model.class_names == ("class_0", "class_1")
    one = model(str(files[0]))
    assert list(one.probabilities.values()) == sorted(one.probabilities.values(), reverse=True)
    assert str(one) == ", ".join(f"{name} {value:.1%}" for name, value in one.probabilities.items())
    assert one.name == next(iter(one.probabilities)) and one.mask is None


def test_an_image_of_a_small_set_gets_the_probabilities_of_an_evaluation(place: Path) -> None:
    model = load(place / "digits")
    expected = evaluated(model)
    found = model([Image.fromarray(image[0].numpy()) for image in expected["image"]])
    by_class = [[one.probabilities[name] for name in model.class_names] for one in found]
    assert by_class == expected["predicted label"].tolist()
    assert len(model(photograph((50, 40))).probabilities) == 10


def test_a_mask_has_the_size_of_its_image_and_the_classes_of_an_evaluation(place: Path) -> None:
    model = load(place / "masks")
    expected = evaluated(model)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in expected["image"]]
    alone = [model.results({"image": image[None]})["mask"][0] for image in expected["image"]]
    assert [one.mask.tolist() for one in model(pictures)] == [mask.tolist() for mask in alone]
    one = model(photograph((50, 40)))
    assert one.mask is not None and one.mask.shape == (40, 50)
    counts = {name: int((one.mask == number).sum()) / one.mask.size for number, name in enumerate(model.class_names)}
    assert one.shares == {name: share for name, share in counts.items() if share} and not one.probabilities


def test_objects_are_those_of_an_evaluation_for_files_pictures_and_arrays(place: Path, tmp_path: Path) -> None:
    model = load(place / "boxes")
    image = evaluated(model)["image"][0].permute(1, 2, 0).numpy()
    alone = model.results({"image": torch.from_numpy(image).permute(2, 0, 1)[None]})
    valid = alone["box_valid"][0]
    boxes, scores, labels = (alone[name][0][valid].numpy() for name in ("boxes", "box_score", "box_label"))
    Image.fromarray(image).save(tmp_path / "scene.png")
    for given in (tmp_path / "scene.png", Image.fromarray(image), image):
        one = model(given, least_score=0)
        assert np.array_equal(one.boxes, boxes) and np.array_equal(one.scores, scores) and len(scores) > 1
        assert one.names == tuple(model.class_names[label] for label in labels)
    assert one.masks is None and one.mask is None and not one.probabilities
    middle = float(np.median(one.scores))
    few = model(image, least_score=middle)
    assert list(few.scores) == [score for score in one.scores if score >= middle]
    assert str(few).startswith(f"{len(few.names)} objects: {few.names[0]} {few.scores[0]:.2f}, ")
    assert str(model(image)) == "no objects"


def test_masks_of_objects_have_the_size_of_the_image_whatever_their_number() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :2, :4] = masks[1, 2:4, 4:] = True
    result = {"boxes": torch.tensor([[0.0, 0, 4, 2], [4, 2, 8, 4]]), "box_label": torch.tensor([1, 0])}
    result |= {"box_score": torch.tensor([0.6, 0.9]), "box_valid": torch.ones(2).bool(), "instance_mask": masks}
    found = found_in(result, (8, 8), (4, 8), letterboxed=True)
    two, none = Prediction(("a", "b"), found=found), Prediction(("a", "b"), found=found.chosen(found.scores > 1))
    assert two.masks is not None and np.array_equal(two.masks, masks.flip(0)[:, :4].numpy())
    assert two.names == ("a", "b") and str(two) == "2 objects: a 0.90, b 0.60"
    assert none.masks is not None and none.masks.shape == (0, 4, 8) and str(none) == "no objects"


def test_a_mask_of_a_resized_image_goes_back_to_the_size_of_the_image() -> None:
    mask = torch.tensor([[0, 1], [254, 2]])
    assert of_size(mask, (4, 6)).tolist() == np.kron(mask.numpy(), np.ones((2, 3), int)).tolist()


def test_what_is_no_image_or_cannot_be_read_is_told(place: Path, tmp_path: Path) -> None:
    model = load(place / "digits")
    with pytest.raises(TypeError, match=r"expected an array of uint8, \(H, W, 3\) or \(H, W\); got float64, \(3, 3\)"):
        model(np.zeros((3, 3)))
    with pytest.raises(TypeError, match="expected an image of PIL, an array of uint8 or a path; got int"):
        model([3])
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(BadData, match=r"broken.png cannot be decoded"):
        model(tmp_path / "broken.png")
    with pytest.raises(BadConfig, match=r"has no config\.yaml"):
        load(tmp_path)


def test_a_file_of_a_run_stands_for_its_run_and_checkpoint(place: Path) -> None:
    chosen = {name: load(place / "digits" / name).trained.checkpoint for name in ("", "last.safetensors")}
    assert chosen == {"": "best", "last.safetensors": "last"}


def test_the_data_set_need_not_be_there_any_more(place: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(place / "photos", tmp_path / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(place / "set"), "/not/there"))
    image = photograph((64, 48))
    assert load(run)(image) == load(place / "photos")(image)


def test_images_are_found_by_folder_pattern_list_and_name(tmp_path: Path) -> None:
    def paths(*names: str) -> list[Path]:
        return [tmp_path / name for name in names]

    for path in paths("b.jpg", "in/a.PNG", "in/.hidden.png", "in/a,b.jpg", "notes.md", ".git/c.jpg"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "list.txt").write_text("# chosen\nb.jpg\n\nin/gone.jpg\n")
    (tmp_path / "wrong.txt").write_text("b.jpg,cat\n")
    assert find_images([str(tmp_path)]) == paths("b.jpg", "in/a,b.jpg", "in/a.PNG")
    assert find_images([f"{tmp_path}/*/*.jpg"]) == paths("in/a,b.jpg")
    assert find_images([f"{tmp_path}/**/*.jpg"]) == paths("b.jpg", "in/a,b.jpg")
    assert find_images([f"{tmp_path}/in/a,b.jpg"]) == paths("in/a,b.jpg")
    assert find_images([f"{tmp_path}/b.jpg,{tmp_path}/notes.md", str(tmp_path / "b.jpg")]) == paths("b.jpg", "notes.md")
    assert find_images([str(tmp_path / "list.txt")]) == paths("b.jpg", "in/gone.jpg")
    wrong: dict[str, Any] = {
        "list.tx": r"does not exist",
        "*.bmp": r"matches no file",
        "wrong.txt": r"none of its 1 lines is a file: b.jpg,cat",
    }
    for name, match in wrong.items():
        with pytest.raises(BadData, match=match):
            find_images([str(tmp_path / name)])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a,b.txt").touch()
    with pytest.raises(BadData, match=r"is a folder without images; it holds a,b.txt"):
        find_images([str(tmp_path / "none")])
