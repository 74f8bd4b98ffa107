"""data.on_bad_image=skip: another image of the class, the same whatever the workers do; every skip is written down."""

import json
import signal

import pytest
import torch

from plainloop.data.image_folder import ImageFolder
from plainloop.distributed import collectives
from plainloop.errors import BadData
from tests.harness import inject
from tests.harness.configs import checked
from tests.harness.pictures import command, write_pictures
from tests.harness.ranks import start_run, wait
from tests.harness.runs import differences, lines, remains, train
from tests.harness.tensors import equal

BAD = ("train/class_0/003.png", "train/class_2/000.png", "val/class_1/001.png")
BAD_TRAIN = {3, 24}


@pytest.fixture
def root(tmp_path):
    """36 images to train on, 9 to validate on, of three classes; three of them are damaged."""
    pictures = write_pictures(tmp_path / "pictures")
    for number, name in enumerate(BAD):
        spoil(pictures / name, number)
    return pictures


def spoil(path, number):
    path.write_bytes(path.read_bytes()[: 100 * number] or b"<html>")


def source(root, *, num_workers=0, **settings):
    told = {"batch_size": 9, "image_size": 16, "device": "cpu", "timeout": 60, "on_bad_image": "skip"} | settings
    return ImageFolder(root=str(root), num_workers=num_workers, **told)


def test_a_bad_image_is_replaced_by_another_of_its_class(root):
    data = source(root)
    labels = torch.arange(3).repeat_interleave(12)
    whole = write_pictures(root.parent / "whole")
    for batch, undamaged in zip(data.train_batches(0, 12, seed=1), source(whole).train_batches(0, 12, seed=1)):
        assert len(batch["index"]) == 9
        assert not BAD_TRAIN & set(batch["index"].tolist())
        assert torch.equal(batch["label"], undamaged["label"])
        assert torch.equal(batch["label"], labels[batch["index"]])
        replaced = torch.tensor([index in BAD_TRAIN for index in undamaged["index"].tolist()])
        assert torch.equal(batch["image"][~replaced], undamaged["image"][~replaced])
    assert [row["index"] for row in data.take_skipped()].count(3) == 3  # once an epoch
    assert data.take_skipped() == []


def test_each_epoch_draws_another_replacement(root):
    seen = {3: set(), 24: set()}
    whole = [batch["index"] for batch in source(write_pictures(root.parent / "whole")).train_batches(0, 40, seed=1)]
    for batch, undamaged in zip(source(root).train_batches(0, 40, seed=1), whole):
        for index in BAD_TRAIN:
            seen[index] |= set(batch["index"][undamaged == index].tolist())
    assert all(len(others) > 3 for others in seen.values())


def test_a_cache_keeps_what_is_wrong_with_an_image(root, tmp_path):
    plain, cached = source(root), source(root, cache="disk", cache_dir=str(tmp_path / "cache"), cache_size=16)
    for _ in range(2):
        assert equal(list(plain.train_batches(0, 9, seed=1)), list(cached.train_batches(0, 9, seed=1)))
        assert plain.take_skipped() == cached.take_skipped()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [1, 5])
def test_workers_and_starting_later_change_no_replacement(root, num_workers, start):
    whole = list(source(root).train_batches(0, 9, seed=1))
    assert equal(whole[start:], list(source(root, num_workers=num_workers).train_batches(start, 9, seed=1)))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_evaluation_leaves_it_out_and_has_every_other_sample_once(root, num_workers, world_size, monkeypatch):
    seen, skipped = [], []
    monkeypatch.setattr(collectives, "world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        data = source(root, num_workers=num_workers, batch_size=world_size)  # so one batch of a rank has nothing left
        for batch in data.eval_batches("val"):
            seen += batch["index"].tolist()
        skipped += data.take_skipped()
    assert sorted(seen) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [(row["split"], row["index"]) for row in skipped] == [("val", 4)]
    assert "val/class_1/001.png cannot be decoded" in skipped[0]["why"]


def test_where_a_class_has_nothing_else_the_run_ends(photos):
    root = photos({"train/cat": 1, "train/dog": 8, "val/cat": 1, "val/dog": 2})
    spoil(root / "train/cat/000.png", 0)
    with pytest.raises(BadData, match=r"000.png cannot be decoded .*, nor any other image of its class") as caught:
        list(source(root).train_batches(0, 1, seed=0))
    assert caught.value.hint == "mend this file"


def test_a_class_of_one_image_is_trained_on(photos):
    root = photos({"train/cat": 1, "train/dog": 8, "val/cat": 1, "val/dog": 2})
    (batch,) = source(root).train_batches(0, 1, seed=0)
    assert sorted(batch["label"].tolist()) == [0] + [1] * 8


@pytest.mark.parametrize(("fraction", "most"), [(0.01, 1), (0.05, 2), (0.0, 0), (0.5, 18)])
def test_more_than_the_fraction_is_refused_and_exactly_it_is_not(root, fraction, most):
    data = source(root, max_bad_fraction=fraction)
    data.require_few_skipped([{"split": "train", "index": index, "why": ""} for index in range(most)] * 2)
    with pytest.raises(BadData, match=rf"{most + 1} of the 36 images of train .* data.max_bad_fraction={fraction}"):
        data.require_few_skipped([{"split": "train", "index": 35, "why": ""}])


# Whole runs

MOST = ("data.num_workers=0", "data.on_bad_image=skip", "data.max_bad_fraction=0.1", "trainer.eval_every=4st")


def events(folder):
    rows = [row for row in lines(folder / "events.jsonl") if row["kind"] == "bad_image"]
    return sorted((row["split"], row["index"]) for row in rows)


def test_a_run_that_skips_and_is_stopped_ends_as_if_left_alone_and_lists_each_bad_image_once(tmp_path, root):
    typed = (*command(root), *MOST)
    for name in ("alone", "stopped"):
        (tmp_path / name).mkdir()
    alone = train(tmp_path / "alone", *typed)
    assert alone.code == 0, alone.err
    stopped = train(tmp_path / "stopped", *typed, prepare=inject.at_step(7, inject.send(signal.SIGKILL)))
    assert stopped.code == -signal.SIGKILL
    assert train(tmp_path / "stopped", *typed).code == 0
    assert not differences(remains(tmp_path / "alone/run"), remains(tmp_path / "stopped/run"))
    for name in ("alone", "stopped"):
        assert events(tmp_path / name / "run") == [("train", 3), ("train", 24), ("val", 4)]
    summary = json.loads((tmp_path / "alone/run/summary.json").read_text())
    assert summary["bad_images"]["number"] == 3
    said = alone.out + alone.err
    assert "3 bad images were skipped:\n" in said
    assert all(f"{root / name} cannot be decoded" in said for name in BAD)


def test_a_run_that_ended_at_a_bad_image_goes_on_as_its_message_says(tmp_path, root):
    ended = train(tmp_path, *command(root), "data.num_workers=0")
    assert ended.code == 65
    assert "cannot be decoded" in ended.err and "data.on_bad_image=skip" in ended.err
    refused = train(tmp_path, "resume=run", "data.on_bad_image=skip")
    assert refused.code == 65
    assert "2 of the 36 images of train" in refused.err and "data.max_bad_fraction=0.11" in refused.err
    went_on = train(tmp_path, "resume=run", "data.on_bad_image=skip", "data.max_bad_fraction=0.11")
    assert went_on.code == 0, went_on.err


def test_two_ranks_write_down_what_each_of_them_skips(tmp_path, root):
    typed = (word for word in command(root) if not word.startswith(("hydra.", "data.batch_size")))
    config = checked(*typed, *MOST, "data.batch_size=12")
    assert wait(start_run(config, tmp_path / "run", 2)) == [0, 0]
    assert events(tmp_path / "run") == [("train", 3), ("train", 24), ("val", 4)]
