"""What a person sees: a bar on a real (pseudo) terminal, plain lines through a pipe, every row once in the log."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from plainloop.loggers.console import Console, closing_lines

# Handlers as Hydra sets them up: a file, and standard output.
RUN = """
import logging, sys, time
from pathlib import Path
from plainloop.loggers.console import Console
root = logging.getLogger()
root.setLevel(logging.INFO)
for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(sys.argv[1])):
    root.addHandler(handler)
console = Console(total_steps=300, steps_per_epoch=100, batch_size=100, num_val=45).__enter__()
if sys.argv[2] == "loading":
    time.sleep(0.3)
    sys.exit()
for step in range(1, 301):
    time.sleep(0.002)
    console.advance(step)
    if step % 50 == 0:
        row = {"epoch": step / 100, "train/loss": 1 / step, "train/top1": 0.5, "train/lr": 0.001}
        row |= {"val/loss": 0.5, "val/top1": step / 400} if step % 100 == 0 else {}
        for _ in range(5 if step == 300 else 0):
            time.sleep(0.26)
            console.evaluating("val", 9)
        console.log(step, row | {"time/images_per_s": 12345.0}, best=step == 200)
    if step == 120:
        logging.getLogger("plainloop").warning("the disk is nearly full")
        print("a line that somebody prints")
if sys.argv[2] == "raise":
    raise RuntimeError("it broke")
console.finish()
console.finish()
root.info("the end")
"""


def on_a_terminal(log: Path, *, how: str = "finish", columns: int = 80, term: str = "xterm") -> str:
    """Everything that a terminal of that width receives."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {key: os.environ[key] for key in os.environ if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, log, how], stdout=slave, stderr=slave, env=environment | {"TERM": term}
    )
    os.close(slave)
    received = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux says so when the last writer is gone
            break
        if not part:
            break
        received += part
    os.close(master)
    child.wait()
    return received.decode()


def visible(received: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received)


def through_a_pipe(log: Path) -> str:
    return subprocess.run([sys.executable, "-c", RUN, log, "finish"], capture_output=True, text=True, check=True).stdout


def each_row_once(log: Path) -> bool:
    text = log.read_text()
    rows = [text.count(f"step {step:>3}/300") for step in range(50, 301, 50)]
    return rows == [1] * 6 and text.count("the disk is nearly full") == 1 and "\x1b" not in text


def test_a_pipe_gets_one_plain_line_a_row(tmp_path):
    lines = through_a_pipe(tmp_path / "train.log").splitlines()
    assert [line[:12] for line in lines if line.startswith("step")] == [
        f"step {step:>3}/300" for step in range(50, 301, 50)
    ]
    row = re.sub(r"left 0:0\d", "left 0:0x", lines[1])
    fields = "step 100/300  ep 1.0  loss 0.0100  top1 0.5000  val loss 0.500  val top1 0.2500  lr 0.0010  12.3k img/s"
    assert row == f"{fields}  left 0:0x"
    assert [line for line in lines if line.endswith("new best")] == [line for line in lines if "step 200/" in line]
    assert not any("\x1b" in line or "\r" in line for line in lines)
    assert each_row_once(tmp_path / "train.log")
    dumb = on_a_terminal(tmp_path / "dumb.log", term="dumb")
    assert "\x1b" not in dumb and dumb.count("step ") == 6


def test_a_terminal_gets_a_bar_and_above_it_evaluations_and_what_others_print(tmp_path):
    seen = visible(on_a_terminal(tmp_path / "train.log"))
    drawn = r"training ━+[╺╸]?━* \d+/300  left 0:0\d  loss 0.0\d+  val 0.\d{4}  12.3k img/s"
    assert re.search(drawn, seen.replace("\r", ""))
    evaluating = dict.fromkeys(re.findall(r"evaluating val \d/\d", seen))
    assert list(evaluating) == [f"evaluating val {n}/5" for n in range(1, 6)]
    lines = [line.strip() for line in seen.replace("\r", "\n").splitlines()]
    assert [line for line in lines if line.startswith("step")] == [
        "step 100/300  ep 1.0  loss 0.0100  val loss 0.500  val top1 0.2500",
        "step 200/300  ep 2.0  loss 0.00500  val loss 0.500  val top1 0.5000  new best",
        "step 300/300  ep 3.0  loss 0.00333  val loss 0.500  val top1 0.7500",
    ]
    assert lines.count("the disk is nearly full") == lines.count("a line that somebody prints") == 1
    assert seen.rstrip().endswith("the end")  # handlers are as before the bar
    assert each_row_once(tmp_path / "train.log")


@pytest.mark.parametrize("how", ["finish", "raise", "loading"])
def test_the_cursor_comes_back_also_when_the_run_fails(how, tmp_path):
    received = on_a_terminal(tmp_path / "train.log", how=how)
    assert received.count("\x1b[?25l") >= 1 and "loading" in received
    assert received.rfind("\x1b[?25h") > received.rfind("\x1b[?25l")


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_bar_fits_the_terminal(columns, tmp_path):
    drawn = re.findall(r"━[^\r\n]*", visible(on_a_terminal(tmp_path / "train.log", columns=columns)))
    assert drawn
    assert max(len(line.rstrip()) for line in drawn) <= columns


def test_time_left_is_counted_from_the_end_of_the_first_step(caplog):
    now = [0.0]
    console = Console(total_steps=101, steps_per_epoch=10, batch_size=10, clock=lambda: now[0])
    now[0] = 60.0  # the first step compiles for a minute
    console.advance(1)
    now[0] = 70.0
    console.advance(11)
    with caplog.at_level(logging.INFO, "plainloop"):
        console.log(11, {"train/loss": 1.0})
    assert caplog.messages == ["step  11/101  loss 1.00  left 1:30"]


def test_where_there_is_no_bar_silence_ends_after_thirty_seconds(caplog):
    now = [0.0]
    console = Console(total_steps=900, steps_per_epoch=100, batch_size=10, num_val=20, clock=lambda: now[0])
    with caplog.at_level(logging.INFO, "plainloop"):
        for step in range(1, 101):
            now[0] += 1.0
            console.advance(step)
        for _ in range(10):
            now[0] += 10.0
            console.evaluating("val", 2)
    assert caplog.messages == [
        *(f"step {step:>3}/900  training  left {left}" for step, left in ((30, "14:30"), (60, "14:00"), (90, "13:30"))),
        *(f"step 100/900  evaluating val {n}/10" for n in (2, 5, 8)),
    ]


@pytest.mark.parametrize("redirected", ["", "2>&1"])
def test_a_pipe_that_nobody_reads_any_more_spoils_nothing(redirected, tmp_path):
    """As `| head -1`."""
    command = f'set -o pipefail; "$0" -c "$1" train.log finish {redirected} | head -1'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, RUN], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")
    assert (tmp_path / "train.log").read_text().endswith("the end\n")


def test_a_step_costs_under_five_microseconds():
    console = Console(total_steps=10**6, steps_per_epoch=10, batch_size=10)
    best = 1.0
    for _ in range(50):
        since = time.perf_counter()
        for step in range(1000):
            console.advance(step)
        best = min(best, (time.perf_counter() - since) / 1000)
    assert best < 5e-6


def test_closing_lines_do_without_what_is_not_known(tmp_path):
    lines = closing_lines({"steps": 3, "seconds": 0.4, "best": {"metric": "val/top1", "value": None}}, tmp_path)
    assert lines == ["3 steps in 0:00", f"run: {tmp_path}"]
