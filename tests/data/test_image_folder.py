"""Photographs from workers: bit-exact whatever the workers do, and no worker left behind."""

import ctypes
import functools
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.transforms import v2

from plainloop.augment.crop import RandomResizedCrop
from plainloop.augment.per_sample import as_augmentation
from plainloop.augment.scale_crop import RandomScaleCrop
from plainloop.data.digits import Digits
from plainloop.data.image_folder import ImageFolder
from plainloop.data.masks.mask_folder import MaskFolder
from plainloop.errors import BadData, RunError
from plainloop.system import rng
from plainloop.system.processes import num_cpus
from tests.harness.children import Child
from tests.harness.pictures import write_masked
from tests.harness.tensors import equal

CONF = Path(__file__).resolve().parents[2] / "conf"
FAKE = {"name": "FakeData", "arguments": {"size": 4, "image_size": [3, 2, 2]}}
FOLDERS = {"train/cat": 9, "train/dog": 8, "val/cat": 4, "val/dog": 3, "test/cat": 1, "test/dog": 1}
DRAWS = tuple(
    as_augmentation(transform).sample
    for transform in (RandomResizedCrop(size=16), v2.ColorJitter(0.4, 0.4, 0.4), v2.RandomHorizontalFlip())
)
MASK_DRAWS = (RandomScaleCrop(size=16).sample,)


def source(root, *, num_workers=0, transforms=DRAWS, **settings):
    told = {"batch_size": 4, "image_size": 16, "device": "cpu", "timeout": 60} | settings
    return ImageFolder(root=str(root), num_workers=num_workers, sample_transforms=transforms, **told)


@pytest.fixture
def root(photos):
    return photos(FOLDERS)


def masked_source(root, *, num_workers=0, transforms=MASK_DRAWS, **settings):
    told = {"batch_size": 4, "image_size": 16, "device": "cpu", "timeout": 60, "num_classes": 3} | settings
    return MaskFolder(root=str(root), num_workers=num_workers, sample_transforms=transforms, **told)


def of_labels(tmp_path, photos):
    return photos(FOLDERS), source


def of_masks(tmp_path, photos):
    return write_masked(tmp_path / "masked"), masked_source


@pytest.fixture(params=[of_labels, of_masks])
def made(request, tmp_path, photos):
    """A source whose files workers decode, by its settings."""
    root, kind = request.param(tmp_path, photos)
    return functools.partial(kind, root)


@pytest.mark.parametrize(("num_workers", "prefetch"), [(1, 1), (1, 4), (2, 1), (2, 3)])
def test_results_do_not_depend_on_workers_and_prefetching(made, num_workers, prefetch):
    plain = list(made().train_batches(0, 9, seed=1))
    assert equal(plain, list(made(num_workers=num_workers, prefetch=prefetch).train_batches(0, 9, seed=1)))


class Unkeyed:
    """Draws from a generator of its own, which each worker copies: what a keyed stream must not do."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, sample):
        image = sample["image"]
        return sample | {"image": (image + torch.randint(0, 256, (1,), generator=self.generator)).to(torch.uint8)}


def test_a_transform_with_its_own_generator_is_caught(made):
    plain = list(made(transforms=(Unkeyed(),)).train_batches(0, 9, seed=1))
    assert not equal(plain, list(made(transforms=(Unkeyed(),), num_workers=2).train_batches(0, 9, seed=1)))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [1, 4, 6])
def test_starting_later_gives_the_same_steps(made, start, num_workers):
    whole = list(made().train_batches(0, 9, seed=1))
    assert equal(whole[start:], list(made(num_workers=num_workers).train_batches(start, 9, seed=1)))


def test_the_same_sample_is_drawn_anew_in_every_epoch(root):
    views = {}
    for batch in source(root).train_batches(0, 12, seed=1):
        for image, index in zip(batch["image"], batch["index"].tolist()):
            views.setdefault(index, []).append(image.numpy().tobytes())
    assert all(len(set(seen)) == len(seen) for seen in views.values())
    assert max(map(len, views.values())) == 3


@pytest.mark.parametrize("settings", [{"repeats": 2}, {"sampler": "class_balanced"}, {}])
def test_a_sample_that_an_epoch_draws_again_is_augmented_anew(root, settings):
    views = [
        (index, image.numpy().tobytes())
        for batch in source(root, **settings).train_batches(0, 4, seed=1)
        for image, index in zip(batch["image"], batch["index"].tolist())
    ]
    assert len(set(views)) == len(views) == 16
    assert (len({index for index, _ in views}) < 16) == ("repeats" in settings)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_leaves_the_generators_of_the_trainer_alone(made, num_workers):
    rng.seed_all(7)
    expected = torch.rand(3)
    rng.seed_all(7)
    stream = made(num_workers=num_workers).train_batches(0, 3, seed=1)
    next(stream)
    assert torch.equal(torch.rand(3), expected)
    stream.close()


def test_image_label_and_index_belong_together(root):
    data = source(root, transforms=())
    batches = [*data.train_batches(0, 4, seed=0)]
    for batch in batches:
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape == (4, 3, 16, 16)
        assert torch.equal(batch["label"], (batch["index"] >= 9).long())
    assert [sorted(batch) for batch in batches] == [["image", "index", "label"]] * 4


@pytest.mark.parametrize(("split", "number"), [("val", 7), ("test", 2), ("train", 5)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_gives_every_sample_once_without_the_transforms_of_training(root, split, number, num_workers):
    def images(**settings):
        return list(source(root, train_eval_samples=5, num_workers=num_workers, **settings).eval_batches(split))

    batches = images()
    assert len(torch.cat([batch["index"] for batch in batches]).unique()) == number
    assert sum(len(batch["index"]) for batch in batches) == number
    assert equal(batches, images(transforms=()))


def test_without_transforms_training_sees_what_evaluation_sees(root):
    data = source(root, transforms=(), train_eval_samples=100)
    seen = {int(i): image for b in data.eval_batches("train") for i, image in zip(b["index"], b["image"])}
    for batch in data.train_batches(0, 4, seed=0):
        assert all(torch.equal(seen[int(i)], image) for i, image in zip(batch["index"], batch["image"]))


def test_transforms_that_leave_the_size_open_are_followed_by_resize_and_crop(root):
    batch = next(
        source(root, transforms=(as_augmentation(v2.RandomHorizontalFlip()).sample,)).train_batches(0, 1, seed=0)
    )
    assert batch["image"].shape == (4, 3, 16, 16)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_ends_the_stream_with_its_path_and_no_traceback(root, num_workers):
    (root / "train/dog/003.png").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"train/dog/003.png cannot be decoded .*; it is sample 12$") as caught:
        list(source(root, num_workers=num_workers).train_batches(0, 4, seed=0))
    assert "Traceback" not in str(caught.value)
    assert "data.on_bad_image=skip" in caught.value.hint


def test_a_transform_that_gives_floats_is_told_to_leave_that(root):
    transforms = (as_augmentation(v2.ToDtype(torch.float32, scale=True)).sample,)
    with pytest.raises(BadData, match=r"must give a \(3, H, W\) uint8 tensor; ToDtype.* gave torch.float32"):
        next(source(root, transforms=transforms).train_batches(0, 1, seed=0))


def test_a_test_split_without_its_folder_is_named(photos):
    data = source(photos({"cat": 8, "dog": 8}))
    with pytest.raises(BadData, match="has no test split; it has train and val"):
        next(data.eval_batches("test"))


@pytest.mark.parametrize("end", ["close", "forget", "exhaust"])
def test_workers_are_gone_when_the_stream_ends(root, end):
    before = set(multiprocessing.active_children())
    stream = source(root, num_workers=2).train_batches(0, 50, seed=0)
    next(stream)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    if end == "close":
        stream.close()
    elif end == "exhaust":
        list(stream)
    del stream
    assert not set(multiprocessing.active_children()) & workers


def test_too_many_workers_are_warned_of_once_and_only_where_it_is_true(root, caplog, recwarn):
    for num_workers in (1, num_cpus() + 1, num_cpus() + 1):
        list(source(root, num_workers=num_workers).train_batches(0, 1, seed=0))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"data.num_workers={num_cpus() + 1}, for each of 1 ranks on this machine, is more than the")
    assert not recwarn.list


@pytest.mark.parametrize("meanwhile", ["it reads on", "it computes"])
def test_a_worker_that_dies_is_explained(root, meanwhile):
    before = set(multiprocessing.active_children())
    stream = source(root, num_workers=1).train_batches(0, 500, seed=0)
    next(stream)
    (worker,) = set(multiprocessing.active_children()) - before

    def kill_it_and_go_on():
        os.kill(worker.pid, signal.SIGKILL)
        if meanwhile == "it computes":
            time.sleep(60)  # torch's handler of SIGCHLD raises wherever the main thread is
        list(stream)

    with pytest.raises(RunError, match="a data worker died") as caught:
        kill_it_and_go_on()
    assert "data.num_workers=" in caught.value.hint


def failure(root, prepare):
    """What a run says whose process `prepare` has changed."""

    def work():
        prepare()
        sys.excepthook = lambda kind, error, trace: print(f"{error}; next: {error.hint}", file=sys.stderr)
        list(source(root, num_workers=2, image_size=224, batch_size=16).train_batches(0, 40, seed=0))  # keeps them all

    return Child(work).wait().err


def test_too_few_open_files_are_explained(root):
    said = failure(root, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    assert "this process may have only 64 files open" in said
    assert "ulimit -n 4096" in said


def with_little_shared_memory():
    """A mount that only this process sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private, recursive = 0x20000, 1 << 18, 1 << 14
    assert libc.unshare(new_mounts) == 0
    assert libc.mount(b"none", b"/", None, private | recursive, None) == 0
    assert libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=1m") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small /dev/shm")
def test_a_small_shared_memory_is_explained(root):
    said = failure(root, with_little_shared_memory)
    assert "has no room in /dev/shm, the shared memory of this machine, which has 1.0 MB" in said
    assert "--shm-size=8g; or type data.num_workers=0" in said


def hang(sample):
    time.sleep(600)


def test_a_worker_that_hangs_is_given_up_and_killed(root, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # seconds that torch waits for workers
    before = set(multiprocessing.active_children())
    with pytest.raises(RunError, match=r"no batch arrived within data.timeout=1 seconds"):
        next(source(root, num_workers=1, transforms=(hang,), timeout=1).train_batches(0, 3, seed=0))
    assert set(multiprocessing.active_children()) == before


def test_workers_leave_signals_to_the_trainer(root):
    before = set(multiprocessing.active_children())
    stream = source(root, num_workers=2).train_batches(0, 9, seed=1)
    batches = [next(stream)]
    for worker in set(multiprocessing.active_children()) - before:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(worker.pid, number)
    assert equal(batches + list(stream), list(source(root).train_batches(0, 9, seed=1)))


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10", "cifar100", "image_folder", "torchvision"])
def test_every_yaml_gives_its_source_the_statistics_that_it_has_by_itself(name, root):
    node = yaml.safe_load((CONF / f"data/{name}.yaml").read_text())
    module, _, kind = node["_target_"].rpartition(".")
    facts = getattr(__import__(module, fromlist=[kind]), kind).facts
    told = {"digits": {}, "image_folder": {"root": str(root)}, "torchvision": FAKE}.get(name, {"download": True})
    told |= {"classes": node["classes"]} if "classes" in node else {}
    assert facts(**told, mean=node["mean"], std=node["std"]) == facts(**told)


@pytest.mark.parametrize("name", ["digits", "image_folder"])
def test_the_example_batch_is_a_training_batch_without_values(name, root):
    data = source(root, num_workers=0) if name == "image_folder" else Digits(batch_size=4, device="cpu")
    shape = (3, 16, 16) if name == "image_folder" else (1, 8, 8)
    example = data.example_batch({"image_shape": shape}, 4)
    batch = next(iter(data.train_batches(0, 1, seed=0)))
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        n: (x.shape, x.dtype) for n, x in example.items()
    }
    assert all(tensor.is_meta for tensor in example.values())
