"""What a survey of a data set finds: counts, sizes, statistics, what is wrong with a file, and duplicates."""

from __future__ import annotations

import csv
import html.parser
import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.commands.describe_data import differences, main
from plainloop.data.digits import Digits

NOISE = np.random.default_rng(0)
HOSTILE = "<script>alert(1)<"


def photograph(size=(40, 30)):
    return Image.fromarray(NOISE.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def bomb(width, height):
    """A PNG that announces so many pixels and holds none."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def root(tmp_path):
    """Three good photographs of each class and split."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(3):
                photograph().save(tmp_path / "set" / split / name / f"{i}.jpg")
    return tmp_path / "set"


def described(capsys, root, *words, code=0):
    """What is printed, as lines, and the rows of the CSV by file."""
    out = root.parent / "described.html"
    data = () if any(word.startswith("data=") for word in words) else ("data=image_folder",)
    assert main([*data, f"data.root={root}", "--out", str(out), *words]) == code
    with out.with_suffix(".csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    return capsys.readouterr().out.splitlines(), rows


def part(lines, start):
    """The lines under a heading, joined."""
    first = next(i for i, line in enumerate(lines) if line.startswith(f"  {start}"))
    more = next((i for i, line in enumerate(lines[first + 1 :], first + 1) if line[2:3] != " "), len(lines))
    return " ".join(" ".join(lines[first:more]).split())


def test_a_good_set_has_counts_and_nothing_else(root, capsys):
    lines, rows = described(capsys, root)
    assert part(lines, "images") == "images 6 train, 6 val"
    assert part(lines, "sizes") == "sizes all 40 x 30 pixels"
    assert (
        part(lines, "classes")
        == "classes 2; the largest has 3 train images, 1 times the smallest train val cat 3 3 dog 3 3"
    )
    assert not [line for line in lines if line.startswith(("  unreadable", "  odd", "  duplicates", "  changed"))]
    assert len(rows) == 6 and not any(row["problem"] or row["notes"] for row in rows.values())


BROKEN = {
    "empty": (lambda path: path.touch(), "is empty (0 bytes)"),
    "cut": (lambda path: path.write_bytes(jpeg()[:-100]), "is damaged inside"),
    "cut_head": (lambda path: path.write_bytes(jpeg()[:20]), "cannot be decoded"),
    "page": (
        lambda path: path.write_text("<html>not found</html>"),
        "cannot be decoded (it is no image of a known kind)",
    ),
    "link": (lambda path: path.symlink_to("/nowhere/x.jpg"), "is a link to a file that is not there"),
    "pipe": (os.mkfifo, "is no file, but a pipe, socket or device"),
    "bomb": (
        lambda path: path.write_bytes(bomb(20_000, 20_000)),
        "has more than 179 million pixels, the most that are decoded: make it smaller",
    ),
}


def jpeg():
    file = io.BytesIO()
    photograph().save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_read_is_listed_with_its_reason(kind, root, capsys):
    write, told = BROKEN[kind]
    write(root / "train/cat/broken.jpg")
    lines, rows = described(capsys, root, code=65)
    assert part(lines, "unreadable").startswith(f"unreadable 1 image train/cat/broken.jpg: {told}")
    assert rows["cat/broken.jpg"]["problem"].startswith(told)
    assert part(lines, "images") == "images 7 train, 6 val"


ODD = {
    "grey.png": ("grey", lambda image: image.convert("L")),
    "one.png": ("grey", lambda image: image.convert("1")),
    "alpha.png": ("transparent: the alpha channel is dropped", lambda image: image.convert("RGBA")),
    "palette.png": ("palette", lambda image: image.convert("P")),
    "cmyk.jpg": ("CMYK: converted without a colour profile", lambda image: image.convert("CMYK")),
    "sixteen.png": ("16 bits: scaled to 8", lambda image: Image.fromarray(np.full((20, 30), 40_000, np.uint16))),
    "tiny.png": ("tiny", lambda image: image.crop((0, 0, 1, 1))),
    "long.png": ("long", lambda image: image.resize((400, 40))),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_listed_with_what_becomes_of_it(name, root, capsys):
    note, change = ODD[name]
    change(photograph()).save(root / "train/cat" / name)
    lines, _ = described(capsys, root)
    assert part(lines, "odd") == f"odd 1 x {note} train/cat/{name}"


def test_a_turned_image_an_animation_and_a_wrong_ending_are_odd(root, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph().save(root / "train/cat/turned.jpg", exif=exif)
    photograph().save(root / "train/cat/moving.webp", save_all=True, append_images=[photograph()])
    photograph().save(root / "train/cat/ending.jpg", "PNG")
    _, rows = described(capsys, root)
    assert rows["cat/turned.jpg"]["notes"] == "turned as its EXIF says"
    assert (rows["cat/turned.jpg"]["width"], rows["cat/turned.jpg"]["height"]) == ("30", "40")
    assert rows["cat/moving.webp"]["notes"] == "several pictures: the first is used"
    assert rows["cat/ending.jpg"]["notes"] == "a PNG file with the ending .jpg"


def test_the_same_image_in_training_and_validation_and_with_two_labels_is_found(root, capsys):
    shutil.copy(root / "train/cat/0.jpg", root / "val/cat/copy.jpg")
    shutil.copy(root / "train/cat/1.jpg", root / "train/dog/copy.jpg")
    found = part(described(capsys, root)[0], "duplicates")
    assert "2 images in several files; 1 of them in several splits, 1 with several labels" in found
    assert "train/cat/0.jpg = val/cat/copy.jpg" in found


def test_files_that_have_changed_silently_are_found_by_an_earlier_survey(root, capsys):
    described(capsys, root)
    shutil.copy(root.parent / "described.csv", root.parent / "before.csv")
    changed = root / "train/cat/0.jpg"
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(bytes(content))
    (root / "val/dog/0.jpg").unlink()
    photograph().save(root / "val/dog/9.jpg")
    lines, _ = described(capsys, root, "--against", str(root.parent / "before.csv"), code=65)
    assert part(lines, "changed") == (
        "changed 3 files since the earlier survey changed: train/cat/0.jpg gone: val/dog/0.jpg new: val/dog/9.jpg"
    )


def test_nothing_has_changed_where_nothing_has(root, capsys):
    described(capsys, root)
    shutil.copy(root.parent / "described.csv", root.parent / "before.csv")
    lines, _ = described(capsys, root, "--against", str(root.parent / "before.csv"))
    assert not [line for line in lines if line.startswith("  changed")]
    assert differences({}, []) == []


def test_mean_and_std_are_those_of_the_pixels_of_training(root, capsys):
    lines, _ = described(capsys, root)
    images = [np.asarray(Image.open(path)) / 255 for path in sorted((root / "train").rglob("*.jpg"))]
    pixels = np.stack(images).reshape(-1, 3)
    shown = ["[" + ",".join(f"{value:.4f}" for value in values) + "]" for values in (pixels.mean(0), pixels.std(0))]
    assert part(lines, "statistics").endswith(f"data.mean={shown[0]} data.std={shown[1]}")


def test_a_set_in_memory_is_described_whole(tmp_path, capsys):
    assert main(["data=digits", "--out", str(tmp_path / "digits.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert part(lines, "images") == "images 1,438 train, 359 val"
    assert part(lines, "sizes") == "sizes all 8 x 8 pixels"
    assert part(lines, "statistics").endswith("data.mean=[0.3053] data.std=[0.3759]")
    splits = Digits(batch_size=1, device="cpu").memory.splits
    counts = zip(*(torch.bincount(splits[split]["label"]).tolist() for split in ("train", "val")))
    rows = [f"{digit} {train} {val}" for digit, (train, val) in enumerate(counts)]
    assert [row for row in rows if f" {row}" not in part(lines, "classes")] == []


def test_a_set_of_torchvision_is_described_too(tmp_path, capsys):
    words = ["data=torchvision", "data.name=FakeData", "data.arguments.size=12", "data.arguments.image_size=[3,20,20]"]
    assert main([*words, "--out", str(tmp_path / "fake.html")]) == 0
    assert "12" in str(sum(int(n) for n in part(capsys.readouterr().out.splitlines(), "images").split()[1::2]))


class Page(html.parser.HTMLParser):
    """The names of the elements of a page, and the values of what could fetch or run something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") or name.startswith("on")]


def test_hostile_names_are_text(root, capsys):
    os.rename(root / "train/dog", root / "train" / HOSTILE)
    os.rename(root / "val/dog", root / "val" / HOSTILE)
    (root / "train/cat/<img src=x onerror=alert(1)>\n\x1b[2J.jpg").touch()
    photograph().save(root / "train/cat/=cmd.jpg")
    lines, rows = described(capsys, root, code=65)
    page = Page((root.parent / "described.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("img") == 2  # the small pictures of two classes
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert HOSTILE in " ".join(lines)
    assert all(line.isprintable() and len(line) <= 80 for line in lines[:-1])
    assert not any(name.startswith(("=", "+", "-", "@")) for name in rows)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["data=image_folder", "data.root=/nowhere"], 65, "data.root=/nowhere does not exist"),
        (["data=image_folder"], 64, "data.root: must be given"),
        (["data=digits", "data.rot=3"], 64, "data.rot"),
        (["data=digits", "--against", "/nowhere.csv"], 65, "--against /nowhere.csv is not the CSV of a survey"),
    ],
)
def test_what_cannot_be_described_is_told(words, code, told, capsys):
    assert main(words) == code
    assert told in capsys.readouterr().err
