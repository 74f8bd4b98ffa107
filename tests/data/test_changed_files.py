"""A run whose data have lost or got a file goes on when that is allowed, and only then."""

import yaml

from tests.harness.pictures import command, write_pictures
from tests.harness.runs import lines, train


def test_a_run_goes_on_with_other_files_when_it_is_allowed_to(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    typed = [word for word in command(pictures) if not word.startswith("trainer.duration=")]
    assert train(tmp_path, *typed, "data.num_workers=0", "trainer.duration=4st").code == 0
    (pictures / "train/class_1/003.png").unlink()
    longer = ("resume=run", "trainer.duration=8st")
    refused = train(tmp_path, *longer)
    assert refused.code == 64
    assert "  removed: train/class_1/003.png\n" in refused.err
    assert "resume=run data.allow_changed=true" in refused.err
    allowed = train(tmp_path, *longer, "data.allow_changed=true")
    assert allowed.code == 0, allowed.err
    assert "it is no longer the run that was started:\n  removed: train/class_1/003.png\n" in allowed.out + allowed.err
    assert [row["removed"] for row in lines(tmp_path / "run/events.jsonl") if "removed" in row] == [1]
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (saved["facts"]["num_train"], saved["data"]["allow_changed"]) == (35, False)
    assert train(tmp_path, "resume=run", "trainer.duration=12st").code == 0


def test_a_file_of_another_size_is_noticed(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    typed = [word for word in command(pictures) if not word.startswith("trainer.duration=")]
    assert train(tmp_path, *typed, "data.num_workers=0", "trainer.duration=4st").code == 0
    with open(pictures / "val/class_2/001.png", "ab") as file:
        file.write(b"more")
    refused = train(tmp_path, "resume=run", "trainer.duration=8st")
    assert refused.code == 64
    assert "  changed: val/class_2/001.png\n" in refused.err
    assert "resume=run data.allow_changed=true" in refused.err
    allowed = train(tmp_path, "resume=run", "trainer.duration=8st", "data.allow_changed=true")
    assert allowed.code == 0, allowed.err
    assert train(tmp_path, "resume=run", "trainer.duration=12st").code == 0
