"""data.cache: each image is decoded once, whoever builds the cache, is killed while building it, or finds no room."""

import logging
import os
import pickle
import re
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.per_sample import PerSample
from plainloop.config.compare import changes_result
from plainloop.data.cache import build, file
from plainloop.data.cache.build import Content, cached
from plainloop.data.cache.file import CachedImages
from plainloop.data.cache.place import Place, memory_free
from plainloop.data.image_folder import ImageFolder
from plainloop.data.loaders import Loader
from plainloop.data.loading.decode import decode, decode_at_most
from plainloop.errors import BadData, CannotWrite
from tests.harness.children import Child
from tests.harness.disks import disk
from tests.harness.photos import write_photographs
from tests.harness.ranks import on_ranks
from tests.harness.tensors import equal

DRAWS = (RandomResizedCrop(size=32).sample, PerSample(transform=v2.ColorJitter(0.4, 0.4, 0.4)).sample)
NUMBER = 16


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / "photographs", per_class=NUMBER // 2)


def source(root, tmp_path, cache="disk", *, num_workers=0, **settings):
    told = {"batch_size": 4, "image_size": 32, "crop_fraction": 0.8, "device": "cpu", "timeout": 60} | settings
    told |= {"cache": cache, "cache_dir": str(tmp_path / "caches"), "sample_transforms": DRAWS}
    return ImageFolder(root=str(root), num_workers=num_workers, **told)


def steps(data, start=0, stop=6):
    return list(data.train_batches(start, stop, seed=3))


def content(root, *, side=40, read=None, **settings):
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    decoded = read or (lambda path: decode_at_most(path, shorter_side=side))
    return Content("some", root, files, decoded, {"side": side}, side, **settings)


def built(what, folder, kind="disk", limit=10**9, num_workers=0):
    return cached(what, Place(kind, folder, limit), loader=Loader(4, num_workers), timeout=60)


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


def test_a_damaged_image_is_named_and_leaves_no_cache(photographs, tmp_path):
    (photographs / "class_0/004.jpg").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"class_0/004.jpg cannot be decoded"):
        built(content(photographs), tmp_path / "caches", num_workers=1)
    assert not [*(tmp_path / "caches").iterdir()]


def test_a_damaged_image_can_be_kept_as_the_reason_why(photographs, tmp_path):
    path = photographs / "class_0/004.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(BadData) as uncached:
        decode(path)
    images = built(content(photographs, keep_bad=True), tmp_path / "caches")
    number = content(photographs).files.index("class_0/004.jpg")
    with pytest.raises(BadData, match=re.escape(str(uncached.value))) as again:
        images[number]
    assert again.value.hint == uncached.value.hint
    assert torch.equal(
        images[number + 1], decode_at_most(photographs / content(photographs).files[number + 1], shorter_side=40)
    )


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_that_is_larger_than_allowed_is_refused_before_it_is_built(photographs, tmp_path, cache):
    with pytest.raises(
        BadData, match=rf"data.cache={cache} needs about \d+.\d kB; data.cache_gb=1e-05 allows"
    ) as caught:
        source(photographs, tmp_path, cache, cache_gb=1e-5).known()
    assert "data.cache_gb=1," in caught.value.hint
    source(photographs, tmp_path, cache, cache_gb=0.001).known()


def test_other_caches_in_the_folder_count(photographs, tmp_path):
    built(content(photographs), tmp_path / "caches")
    size = sum(path.stat().st_blocks * 512 for path in (tmp_path / "caches").iterdir())
    with pytest.raises(BadData, match=r"beside \d+\.\d kB of other caches") as caught:
        built(content(photographs, side=50), tmp_path / "caches", limit=size + 1000)
    assert f"ls -lt {tmp_path / 'caches'}" in caught.value.hint
    built(content(photographs), tmp_path / "caches", limit=1)  # one that is there is used


def test_more_than_the_estimate_is_refused_on_the_way(photographs, tmp_path):
    wrong = content(photographs, read=lambda path: decode_at_most(path, shorter_side=90))
    with pytest.raises(BadData, match=r"data.cache=disk needs about \d+\.\d kB"):
        built(wrong, tmp_path / "caches", limit=200_000)
    assert not [*(tmp_path / "caches").iterdir()]


def test_more_memory_than_there_is_is_refused(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("plainloop.data.cache.place.memory_free", lambda: 1000)
    with pytest.raises(BadData, match=r"data.cache=ram needs about .* and 1.0 kB of memory are free"):
        built(content(photographs), tmp_path, "ram")


def test_the_free_memory_is_what_the_job_may_still_take(tmp_path):
    files = {
        "proc/meminfo": "MemTotal: 900 kB\nMemAvailable: 700 kB\n",
        "proc/self/cgroup": "0::/slurm/job_7\n",
        "sys/fs/cgroup/slurm/job_7/memory.max": "600000\n",
        "sys/fs/cgroup/slurm/job_7/memory.current": "500000\n",
        "sys/fs/cgroup/slurm/job_7/memory.stat": "anon 1\ninactive_file 30000\n",
        "sys/fs/cgroup/slurm/memory.max": "max\n",
    }
    assert memory_free(tmp_path) is None
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_free(tmp_path) == 130_000
    (tmp_path / "sys/fs/cgroup/slurm/job_7/memory.max").write_text("max\n")
    assert memory_free(tmp_path) == 700 * 1024


@pytest.fixture
def small_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    with disk(tmp_path / "disk", size="512k") as made:
        yield made


@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk_is_one_message_and_stays_as_full_as_it_was(photographs, small_disk, known):
    """The first is seen before anything is decoded; the second meets the full disk while it writes."""
    what = content(photographs, side=90 if known else 1, read=lambda path: decode(path).repeat(1, 2, 2))
    with pytest.raises(CannotWrite, match=r"disk full: \d+\.\d .B needed, .* free at .* \(ENOSPC\)") as caught:
        built(what, small_disk.seen / "caches")
    assert "data.cache_dir=<another folder>, or data.cache=none" in caught.value.hint
    assert not [*(small_disk.seen / "caches").iterdir()]


def test_a_folder_that_cannot_be_written_is_one_message(photographs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match=r"cannot write .*file/caches/some-.*\.cache: Not a directory") as caught:
        built(content(photographs), tmp_path / "file" / "caches")
    assert "data.cache_dir=" in caught.value.hint


def test_the_check_refuses_a_folder_that_cannot_be_made(photographs, tmp_path):
    (tmp_path / "caches").write_text("")
    with pytest.raises(BadData, match=r"cannot make the folder .*caches/deep: .*/caches is a file"):
        ImageFolder.facts(root=str(photographs), cache="disk", cache_dir=str(tmp_path / "caches/deep"))
    assert source(photographs, tmp_path / "caches", "ram").known().num_classes == 2


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_a_cache_that_was_cut_off_is_named(photographs, tmp_path, left):
    path = built(content(photographs), tmp_path / "caches").path
    os.truncate(path, left)
    with pytest.raises(BadData, match=r"cache .* is damaged or not complete") as caught:
        built(content(photographs), tmp_path / "caches")
    assert caught.value.hint == f"delete it: rm {path}"


def test_a_file_system_without_locks_is_one_message(photographs, tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(build.fcntl, "flock", no_locks)
    with pytest.raises(CannotWrite, match="needs file locks"):
        built(content(photographs), tmp_path / "caches")


def test_a_resume_refuses_another_cache_and_takes_another_folder():
    config = {"data": {"_target_": "plainloop.data.image_folder.ImageFolder"}}
    refused = {key: changes_result(f"data.{key}", config) for key in ("cache", "cache_size", "cache_dir", "cache_gb")}
    assert refused == {"cache": True, "cache_size": True, "cache_dir": False, "cache_gb": False}


@pytest.mark.parametrize(("settings", "message"), [({"cache_size": 31}, "at least"), ({"cache_gb": 0}, "above 0")])
def test_impossible_settings_are_refused(photographs, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        source(photographs, tmp_path, **settings)


def test_the_plan_says_that_pixels_are_resized_twice(photographs, tmp_path):
    told = {"root": str(photographs), "batch_size": 4, "cache": "disk", "cache_dir": str(tmp_path / "caches")}
    *_, line, consequence = ImageFolder.plan_lines(**told)
    assert re.fullmatch(rf"cache=disk keeps .* 256 pixels, about .* kB in {tmp_path}/caches", line)
    assert "a second time" in consequence
    assert not [line for line in ImageFolder.plan_lines(**told | {"cache": "none"}) if "cache" in line]


def test_the_estimate_is_what_the_cache_takes(photographs, tmp_path):
    files = [photographs / name for name in content(photographs).files]
    size = built(content(photographs), tmp_path / "caches").path.stat().st_size
    assert build.estimated_bytes(files, 40) == pytest.approx(size - 4096 - 32 * NUMBER, rel=0.01)  # whole pixels


def test_the_estimate_does_not_wait_for_a_pipe(photographs):
    pipe = photographs / "pipe.jpg"
    os.mkfifo(pipe)
    signal.alarm(20)  # ends the tests, where it waits
    estimate = build.estimated_bytes([pipe, *photographs.rglob("000.jpg")], 40)
    signal.alarm(0)
    assert estimate > 0


def test_images_that_are_small_already_are_kept_as_they_are(photographs, tmp_path):
    images: CachedImages = built(content(photographs, side=1000), tmp_path / "caches")
    for name, image in zip(content(photographs).files, images):
        assert torch.equal(image, decode(photographs / name))
