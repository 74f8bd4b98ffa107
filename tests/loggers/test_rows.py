"""The laws of metrics.jsonl and metrics.csv: no whole row is lost, no row is there twice, whatever ends the process."""

import json
import math
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop.errors import BadData, CannotWrite
from plainloop.loggers.csv import Csv
from plainloop.loggers.jsonl import Jsonl, read_rows

KINDS = {"metrics.jsonl": Jsonl, "metrics.csv": Csv}


def row_of(step: int) -> dict[str, float]:
    row = {"epoch": step / 40, "train/loss": 1 / (step + 3), "train/lr": 0.1}
    return row | ({"val/top1": step / 200, "val/top5": 1.0} if step % 50 == 0 else {})


def run(logger: Jsonl | Csv, folder: Path, start: int, stop: int) -> None:
    logger.start(folder, {}, start)
    for step in range(start + 10, stop + 1, 10):
        logger.log(step, row_of(step))
    logger.finish({})


class Forgetful(Jsonl):
    """The deliberately broken variant: it appends where the file ends."""

    def start(self, folder, config, step):
        super().start(folder, config, 10**9)


def rows_after_restarts(kind, name: str, folder: Path) -> bytes:
    """Stopped at random places, the last line torn at a random byte; resumed at multiples of 40, like checkpoints."""
    draw = random.Random(0)
    reached = 0
    while reached < 200:
        start, reached = reached // 40 * 40, min(200, reached + draw.choice([10, 30, 60]))
        run(kind(), folder, start, reached)
        if reached < 200:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: len(content) - draw.randrange(20)])
            reached -= 10
    return (folder / name).read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_after_restarts_the_file_is_that_of_a_run_which_nobody_stopped(name, tmp_path):
    (tmp_path / "calm").mkdir()
    (tmp_path / "disturbed").mkdir()
    run(KINDS[name](), tmp_path / "calm", 0, 200)
    calm = (tmp_path / "calm" / name).read_bytes()
    assert rows_after_restarts(KINDS[name], name, tmp_path / "disturbed") == calm
    if name == "metrics.jsonl":  # a logger that keeps void rows is noticed
        (tmp_path / "disturbed" / name).unlink()
        assert rows_after_restarts(Forgetful, name, tmp_path / "disturbed") != calm


def test_a_reader_gets_every_whole_row_wherever_the_file_is_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    run(Jsonl(), tmp_path, 0, 50)
    content = path.read_bytes()
    assert content.startswith(b'{"step": 10, "epoch": 0.25, "train/loss": 0.07692307692307693, "train/lr": 0.1}\n')
    whole = read_rows(path)
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        # A line counts from its closing brace on.
        expected = whole[: (content[:cut] + b"\n").count(b"}\n")]
        assert read_rows(path) == expected, cut


@pytest.mark.parametrize("name", KINDS)
def test_the_next_writer_repairs_a_file_cut_at_any_byte(name, tmp_path):
    run(KINDS[name](), tmp_path, 0, 50)
    path = tmp_path / name
    content = path.read_bytes()
    first_rows_end = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in first_rows_end) - (name == "metrics.csv")
        run(KINDS[name](), tmp_path, max(whole, 0) * 10, 50)
        assert path.read_bytes() == content, cut


@pytest.mark.parametrize("name", KINDS)
def test_a_file_without_void_rows_is_not_written_again(name, tmp_path):
    run(KINDS[name](), tmp_path, 0, 50)
    before = (tmp_path / name).stat()
    logger = KINDS[name]()
    logger.start(tmp_path, {}, 50)
    logger.finish({})
    after = (tmp_path / name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_numbers_that_json_lacks_come_back(tmp_path):
    logger = Jsonl()
    logger.start(tmp_path, {}, 0)
    logger.log(1, {"train/loss": math.nan, "a": math.inf, "b": -math.inf})
    logger.finish({})
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda name: pytest.fail(f"not JSON: {name}"))
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (str(row["train/loss"]), row["a"], row["b"]) == ("nan", math.inf, -math.inf)


def test_a_column_that_appears_later_is_empty_before(tmp_path):
    logger = Csv()
    logger.start(tmp_path, {}, 0)
    logger.log(1, {"train/loss": 0.5})
    logger.log(2, {"train/loss": 0.25, "val/top1": math.nan})
    logger.log(3, {"val/top1": 1.0})
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss,val/top1\n1,0.5,\n2,0.25,nan\n3,,1.0\n"


def test_a_spoilt_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(BadData, match=r"metrics.jsonl:2 is not a row but b'\{\"st"):
        Jsonl().start(tmp_path, {}, 3)


def test_killed_while_appending_no_earlier_row_is_lost(tmp_path):
    """The child acknowledges each row after `log` returned; what was acknowledged has to be there."""
    draw = random.Random(1)
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        script = (
            "import sys; from pathlib import Path; from plainloop.loggers.jsonl import Jsonl\n"
            "logger = Jsonl(); logger.start(Path(sys.argv[1]), {}, 0); step = 0\n"
            "while True:\n"
            "    step += 1; logger.log(step, {f'train/{i}': 1 / (step + i) for i in range(300)})\n"
            "    sys.stdout.write(f'{step}\\n'); sys.stdout.flush()\n"
        )
        child = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True)
        for _ in range(draw.randrange(1, 40)):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in child.communicate()[0].splitlines()]
        steps = [row["step"] for row in read_rows(folder / "metrics.jsonl")]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= max(acknowledged, default=0)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from plainloop.errors import CannotWrite
from plainloop.loggers.jsonl import Jsonl
folder = Path(sys.argv[1])
logger = Jsonl()
logger.start(folder, {}, 0)
logger.log(1, {"train/loss": 0.5})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
logger.log(2, {"train/loss": 0.25})
logger.log(3, {"train/loss": 0.125})
try:
    logger.sync()
except CannotWrite as error:
    print(error, (folder / "metrics.jsonl").read_text().count("\\n"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
logger.log(4, {"train/loss": 0.1})
"""


def test_rows_that_the_disk_has_no_room_for_leave_no_half_line_and_wait(tmp_path):
    result = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)
    assert result.stdout == f"cannot write {tmp_path / 'metrics.jsonl'}: File too large (EFBIG) 1\n"
    assert result.stderr.count("the rows wait until they can be written") == 1
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(CannotWrite, match=r"cannot write .*nowhere"):
        KINDS[name]().start(tmp_path / "nowhere", {}, 0)
