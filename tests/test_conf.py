"""Every YAML file in conf/ composes and passes the check, and says how it is meant."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from plainloop.config.settings import SETTINGS
from plainloop.config.types import fields_of
from plainloop.report.plan import plan_of
from tests.harness.annotated import SCENES, as_coco, write_coco, write_images, write_xml
from tests.harness.commands import COMPOSER, ROOT, passed

CONF = ROOT / "conf"
GROUPS = {group: options for group, options in COMPOSER.groups.items() if not group.startswith("hydra")}
# Options that go together: a model of masks needs data with masks.
FOLDERS_OF_MASKS = ("data=mask_folder", "data=mask_lists", "data=voc", "data=cityscapes", "data=ade20k")
MASKS = ("task=segmentation", "data=digit_scenes", "model=tiny_seg")
BOXES = ("task=detection", "data=digit_boxes", "model=yolov3")
OBJECT_MASKS = ("model=mask_rcnn", "task=instance_segmentation")
CHOICES = [f"{group}={option}" for group, options in GROUPS.items() for option in options if group != "local"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, large enough for one global batch of every recipe."""
    root = tmp_path_factory.mktemp("photographs")
    for split, name, count in (("train", "a", 160), ("train", "b", 160), ("val", "a", 4), ("val", "b", 4)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and masks in every layout that there is an option for. The check opens none of them."""
    root = tmp_path_factory.mktemp("masked")
    for split in ("train", "val"):
        for i in range(16):
            name = f"{split}{i}"
            pairs = [(f"images/{split}/{name}.jpg", f"annotations/{split}/{name}.png")]
            pairs += [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png")]
            city = (f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png", f"gtFine/{split}/ulm/{name}_gtFine_labelIds.png")
            for file in (*(file for pair in pairs for file in pair), *city):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_bytes(b"x")
            with (root / f"{split}_list.txt").open("a") as lines:
                lines.write(" ".join(pairs[0]) + "\n")
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{split}{i}\n" for i in range(16)))
    return root


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images, each with its objects in a COCO file and in an XML file."""
    root = tmp_path_factory.mktemp("boxed")
    scenes = {f"{copy}_{name}": objects for copy in range(6) for name, objects in SCENES.items()}
    write_images(root / "JPEGImages", [*scenes])
    write_coco(root / "annotations.json", as_coco(scenes))
    write_xml(root / "Annotations", scenes)
    return root


def is_of_masks(choice: str) -> bool:
    file = CONF / f"{choice.replace('=', '/')}.yaml"
    kinds = r"_target_: plainloop\.(models\.(encoder_decoder|pp_liteseg|tiny_seg)|data\.masks)\."
    of_masks = (*MASKS, *FOLDERS_OF_MASKS)
    return (
        choice in of_masks
        or choice.startswith(("trick=", "search=segmentation_tricks"))
        or re.search(kinds, file.read_text()) is not None
    )


def is_of_boxes(choice: str) -> bool:
    file = CONF / f"{choice.replace('=', '/')}.yaml"
    kinds = r"_target_: plainloop\.(models\.detection|data\.boxes|augment\.objects)\."
    return choice in (*BOXES, *OBJECT_MASKS) or re.search(kinds, file.read_text()) is not None


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_composes_and_passes(choice: str, photographs: Path, masked: Path, boxed: Path) -> None:
    typed = [choice, "data=image_folder"] if choice.startswith("model=") else [choice]
    if choice == "task=distillation":
        typed.append(f"task.teacher={ROOT / 'tests/lifecycle/golden_run/sweep/0'}")
    if choice == "task=instance_segmentation":
        typed += ["data=digit_boxes", "model=mask_rcnn"]
    if is_of_boxes(choice):
        typed = [*(option for option in BOXES if option.split("=")[0] != choice.split("=")[0]), choice]
        typed += [word for word in OBJECT_MASKS if word != choice] if choice in OBJECT_MASKS else []
    if is_of_masks(choice):
        typed = [
            *(["data.image_size=128"] if choice == "model=pan" else []),
            *(option for option in MASKS if option.split("=")[0] != choice.split("=")[0]),
            # A trick's values are those of a search that is made of it, but for weights that do not exist here.
            *(["search=segmentation_tricks_small", "init_from=null"] if choice.startswith("trick=") else []),
            *(["augment=scale_crop"] if choice.startswith(("trick=", "search=")) else []),
            choice,
        ]
    data = COMPOSER.compose(COMPOSER.as_names(typed)).data
    room = data._target_.split(".")[2]
    root = {"masks": masked, "boxes": boxed}.get(room, photographs)
    # So few images: a warm-up of hundreds of steps would not end before the first decay.
    typed += ["scheduler.warmup=1st"] if choice.startswith("experiment=") and room == "boxes" else []
    typed += [f"data.root={root}"] if OmegaConf.is_missing(data, "root") else []
    typed += ["data.batch_size=64"] if data.batch_size > 64 and data._target_.endswith("ImageFolder") else []
    typed += ["data.name=FakeData"] if choice == "data=torchvision" else []
    typed += ["data.num_classes=3"] if choice in FOLDERS_OF_MASKS[:2] else []
    # What a model says to type, as in its file.
    typed += ["task.aux_weights=[1,1]"] if choice == "model=pp_liteseg" else []
    # Of published sets that may be fetched the facts are known without their files.
    typed += ["data.download=true"] if "download" in data else []
    checked = passed(*typed)
    assert checked.config["facts"]["num_train"] > 0
    assert plan_of(checked)


@pytest.mark.parametrize("data", sorted(GROUPS["data"]))
def test_every_data_set_takes_a_batch_size_per_device(data: str) -> None:
    assert COMPOSER.compose([f"data={data}", "++data.batch_size_per_device=8"]).data.batch_size_per_device == 8


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_no_file_has_a_key_twice(path: Path) -> None:
    def keys(node: yaml.Node, prefix: str = "") -> list[str]:
        if not isinstance(node, yaml.MappingNode):
            return []
        return [k for key, value in node.value for k in (prefix + key.value, *keys(value, f"{prefix}{key.value}."))]

    found = keys(yaml.compose(path.read_text()))
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("path", "file"), [("", "train"), ("trainer", "trainer/default"), ("checkpoint", "checkpoint/default")]
)
def test_the_yaml_files_and_the_settings_have_the_same_keys(path: str, file: str) -> None:
    written = set(yaml.safe_load((CONF / f"{file}.yaml").read_text())) - {"defaults", "hydra"}
    assert written == fields_of(SETTINGS[path]).keys()


def test_every_key_of_a_closed_group_has_its_comment() -> None:
    for file in ("train", "trainer/default", "checkpoint/default"):
        for line in (CONF / f"{file}.yaml").read_text().splitlines():
            if re.match(r"\s*\w+: \S", line) and file != "train":
                assert "# " in line, f"{file}: {line}"
