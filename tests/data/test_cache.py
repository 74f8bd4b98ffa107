"""data.cache: each image is decoded once, whoever builds the cache, or is killed while building it."""

import logging
import os
import pickle
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from plainloop.data.cache import build, file
from plainloop.data.cache.file import CachedImages
from plainloop.data.loading.decode import decode, decode_at_most
from plainloop.errors import BadData
from tests.data.caches import NUMBER, built, content, source, steps
from tests.harness.children import Child
from tests.harness.photos import write_photographs
from tests.harness.ranks import on_ranks
from tests.harness.tensors import equal


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / "photographs", per_class=NUMBER // 2)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_the_cache_is_the_same_as_a_folder_of_images_that_were_resized_once(photographs, tmp_path, cache):
    resized = tmp_path / "resized" / photographs.name
    for path in photographs.rglob("*.jpg"):
        target = resized / path.relative_to(photographs).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        small = decode_at_most(path, shorter_side=40)
        Image.fromarray(small.permute(1, 2, 0).numpy()).save(target)
    kept, expected = source(photographs, tmp_path, cache), source(resized, tmp_path, "none")
    assert equal(steps(kept), steps(expected))
    assert not equal(steps(kept), steps(source(photographs, tmp_path, "none")))


@pytest.mark.parametrize("split", ["val", "train"])
def test_evaluation_sees_the_same_pixels_as_without_a_cache(photographs, tmp_path, split):
    with_cache, without = (source(photographs, tmp_path, cache) for cache in ("disk", "none"))
    assert equal(list(with_cache.eval_batches(split)), list(without.eval_batches(split)))


@pytest.mark.parametrize(("start", "num_workers"), [(0, 2), (2, 0), (5, 2)])
def test_a_resume_from_the_cache_gives_the_same_steps_with_any_workers(photographs, tmp_path, start, num_workers):
    whole = steps(source(photographs, tmp_path))
    assert equal(whole[start:], steps(source(photographs, tmp_path, num_workers=num_workers), start))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_the_second_epoch_reads_no_image(photographs, tmp_path, cache, num_workers):
    data = source(photographs, tmp_path, cache, num_workers=num_workers)
    first = steps(data)
    for path in photographs.rglob("*.jpg"):
        path.write_bytes(b"")
    assert equal(first, steps(data))


def test_without_a_cache_the_second_epoch_reads_images(photographs, tmp_path):
    data = source(photographs, tmp_path, "none")
    steps(data)
    for path in photographs.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(BadData, match="cannot be decoded"):
        steps(data)


def test_a_transform_that_writes_into_the_image_does_not_change_the_cache(photographs, tmp_path):
    images = built(content(photographs), tmp_path / "caches")
    before = images[0].clone()
    images[0].zero_()
    assert torch.equal(images[0], before)


def test_a_process_that_is_not_forked_opens_the_file_itself(photographs, tmp_path):
    images = built(content(photographs), tmp_path / "caches")
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    assert equal([*pickle.loads(sent)], [*images])


def test_the_same_images_are_decoded_by_the_first_run_only(photographs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    one, other = (steps(source(photographs, tmp_path)) for _ in range(2))
    assert equal(one, other)
    assert caplog.text.count("decodes 12 images of photographs-train once") == 1


@pytest.mark.parametrize("change", ["content", "size", "file"])
def test_what_changes_the_pixels_makes_a_new_cache(photographs, tmp_path, change):
    before = steps(source(photographs, tmp_path))
    path = photographs / os.fsdecode(source(photographs, tmp_path).images["train"].paths[0])
    if change == "content":
        Image.open(path).rotate(180).save(path)
    elif change == "file":
        path.rename(path.with_name("000_new.jpg"))
    data = source(photographs, tmp_path, cache_size=60 if change == "size" else "auto")
    assert equal(steps(data), steps(source(photographs, tmp_path, "ram", cache_size=data.cache_size)))
    assert change == "file" or not equal(before, steps(data))
    assert len(list((tmp_path / "caches").iterdir())) == 2


def test_images_that_are_moved_elsewhere_have_the_same_cache(photographs, tmp_path):
    built(content(photographs), tmp_path / "caches")
    moved = photographs.rename(tmp_path / "elsewhere")
    built(content(moved, read=decode_nothing), tmp_path / "caches")


def decode_nothing(path):
    raise AssertionError(f"{path} is read")


def test_two_processes_that_build_it_at_once_decode_each_image_once(photographs, tmp_path):
    seen, both = tmp_path / "seen", os.pipe()

    def act():
        def read(path):
            with seen.open("a") as lines:
                lines.write(f"{path.name}\n")
            return decode_at_most(path, shorter_side=40)

        logging.basicConfig(level=logging.INFO)
        os.read(both[0], 1)
        images = built(content(photographs, read=read), tmp_path / "caches")
        (tmp_path / str(os.getpid())).write_bytes(pickle.dumps([*images]))

    children = [Child(act) for _ in range(2)]
    os.write(both[1], b"..")
    for child in children:
        assert child.wait().code == 0, child.wait().err
    one, other = (pickle.loads((tmp_path / str(child.pid)).read_bytes()) for child in children)
    assert equal(one, other)
    assert sorted(seen.read_text().split()) == sorted(path.name for path in photographs.rglob("*.jpg"))
    assert [path.suffix for path in (tmp_path / "caches").iterdir()] == [".cache"]


@pytest.mark.parametrize(("sync_bytes", "again"), [(1, 6), (10**9, NUMBER)])
def test_a_killed_builder_is_continued_and_the_file_is_the_same(photographs, tmp_path, monkeypatch, sync_bytes, again):
    monkeypatch.setattr(build, "CHUNK", 5)
    monkeypatch.setattr(file, "SYNC_BYTES", sync_bytes)
    built(content(photographs), tmp_path / "undisturbed")

    def killed(path):
        if path.name == "013.jpg":
            os.kill(os.getpid(), signal.SIGKILL)
        return decode_at_most(path, shorter_side=40)

    assert Child(lambda: built(content(photographs, read=killed), tmp_path / "caches")).wait().code == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "caches").iterdir()] == [".unfinished"]
    read = []
    built(
        content(photographs, read=lambda path: read.append(path) or decode_at_most(path, shorter_side=40)),
        tmp_path / "caches",
    )
    assert len(read) == again
    (one,), (other,) = ([*(tmp_path / name).iterdir()] for name in ("undisturbed", "caches"))
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()


def test_an_unfinished_cache_of_something_else_is_begun_anew(photographs, tmp_path):
    images = built(content(photographs), tmp_path / "caches")
    (path,) = (tmp_path / "caches").iterdir()
    expected = path.read_bytes()
    path.rename(f"{path}.unfinished")
    Path(f"{path}.unfinished").write_bytes(b"{" + expected[1:4096].replace(b"40", b"41") + expected[4096:])
    assert equal([*built(content(photographs), tmp_path / "caches")], [*images])
    assert path.read_bytes() == expected


def test_the_ranks_of_a_machine_share_one_cache_in_memory(photographs, tmp_path):
    def act():
        logging.basicConfig(level=logging.INFO)
        data = source(photographs, tmp_path, "ram")
        images = data.readable("train", training=True).cached
        inode = os.stat(images.path).st_ino
        return inode, [image.numpy().tobytes() for image in images], os.readlink(images.path)

    (one, pixels, name), (other, same_pixels, _) = on_ranks(tmp_path / "meeting", 2, act)
    assert one == other
    assert name.startswith("/memfd:")
    assert pixels == same_pixels
    assert not (tmp_path / "caches").exists()


def test_memory_is_given_back_with_the_cache(photographs, tmp_path):
    images = built(content(photographs), tmp_path, "ram")
    path = images.path
    assert path.exists()
    del images
    assert not path.exists()


def test_images_that_are_small_already_are_kept_as_they_are(photographs, tmp_path):
    images: CachedImages = built(content(photographs, side=1000), tmp_path / "caches")
    for name, image in zip(content(photographs).files, images):
        assert torch.equal(image, decode(photographs / name))
