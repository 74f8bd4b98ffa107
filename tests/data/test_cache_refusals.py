"""data.cache where images are damaged, or there is no room; what the plan says of its size."""

import os
import re
import signal

import pytest
import torch

from plainloop.config.compare import changes_result
from plainloop.data.cache import build
from plainloop.data.cache.place import memory_free
from plainloop.data.image_folder import ImageFolder
from plainloop.data.loading.decode import decode, decode_at_most
from plainloop.errors import BadData, CannotWrite
from tests.data.caches import NUMBER, built, content, source
from tests.harness.disks import disk
from tests.harness.photos import write_photographs


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / "photographs", per_class=NUMBER // 2)


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
