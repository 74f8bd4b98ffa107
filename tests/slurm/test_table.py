"""What only Slurm knows of a job is in the table all the same: why it waits, what ended it before it could speak."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plainloop.sweep.slurm import client
from tests.slurm import lab as labs
from tests.slurm.lab import HELD, RUN, Job, Lab, accounted, sweep, until_over, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

BEFORE_ANY_OF_OUR_CODE = "hydra.launcher.setup=['sleep 300']"
MORE = "+hydra.launcher.additional_parameters"
GIVEN: dict[str, tuple[str, ...]] = {
    "memory": ("hydra.launcher.mem_gb=0.1", f"{MORE}.acctg_freq=1"),
    "limit": (BEFORE_ANY_OF_OUR_CODE, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10"),
    "node": (BEFORE_ANY_OF_OUR_CODE, "hydra.launcher.nodelist=n2", f"{MORE}.requeue=false"),
    "interpreter": ("hydra.launcher.python=/nowhere/python",),
    "taken back": (),
    "waits": (),
}
EXPECTED = {
    "memory": ("FAILED", "out_of_memory: Slurm says OUT_OF_MEMORY"),
    "limit": ("FAILED", "timeout: Slurm says TIMEOUT"),
    "node": ("FAILED", "node_fail: Slurm says NODE_FAIL"),
    "interpreter": ("FAILED", "killed: exit code 127 before the run began; its log says more"),
    "unseen": ("FAILED", "killed: the node could not write the log"),
    "taken back": ("CANCELLED", "scancel"),
    "waits": ("PENDING", "JobHeldUser"),
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Job]]:
    """On a site that ends what takes more memory than it asked for."""
    folder = tmp_path_factory.mktemp("table")
    with labs.cluster(
        Path(f"/tmp/slurm-{os.getpid()}-table"), SLURM_LAB_EXTRA_CONF="JobAcctGatherParams=OverMemoryKill"
    ) as lab:
        elsewhere = ("hydra.launcher.nodelist=n1",)
        found = {
            name: lab.submit(
                *RUN, HELD, *(given if "n2" in str(given) else (*given, *elsewhere)), folder=folder / name
            )[0]
            for name, given in GIVEN.items()
        }
        (folder / "unseen").mkdir()
        hide(lab, "n1", folder / "unseen")
        found["unseen"] = lab.submit(*RUN, *elsewhere, folder=folder / "unseen")[0]
        for name in GIVEN.keys() - {"taken back", "waits"}:
            found[name].release()
        client.cancel([found["taken back"].slurm])
        wait_until("a job on n2", lambda: found["node"].state == "RUNNING")
        lab.cluster("crash", "n2")
        until_over([job for name, job in found.items() if name != "waits"], timeout=400)
        yield found
        client.cancel([found["waits"].slurm])


def hide(lab: Lab, node: str, folder: Path) -> None:
    """An empty file system over a folder, in that node's view alone."""
    parent = (lab.folder / f"run/{node}.lab").read_text().split()[0]
    inside = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
    subprocess.run(["nsenter", "-t", inside, "-m", "mount", "-t", "tmpfs", "none", str(folder)], check=True)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_table_says_what_slurm_knows(jobs: dict[str, Job], name: str) -> None:
    answer = sweep("status", jobs[name].folder, "--json")
    assert answer.code == 0, answer.text
    (row,) = json.loads(answer.text)
    state, why = EXPECTED[name]
    assert (row["state"], row["why"][: len(why)]) == (state, why)


def test_the_log_of_what_could_say_nothing_is_shown(jobs: dict[str, Job]) -> None:
    assert "/nowhere/python" in sweep("logs", jobs["interpreter"].folder).text


def test_collect_has_a_row_for_it(jobs: dict[str, Job]) -> None:
    assert sweep("collect", jobs["limit"].folder).code == 0
    assert "FAILED" in (jobs["limit"].folder / "results.csv").read_text()


def test_what_waits_is_not_retried_and_what_was_killed_is(jobs: dict[str, Job]) -> None:
    before = accounted()
    assert "nothing to retry" in sweep("retry", jobs["waits"].folder).text
    assert accounted() == before
    answer = sweep("retry", jobs["unseen"].folder, "plugins=[tests.slurm.parts]")
    assert answer.code == 0, answer.text  # submitted, and not waited for
    wait_until("its way to accounting", lambda: accounted() == before + 1)
    (again,) = labs.jobs_of(jobs["unseen"].folder)
    assert until_over([again])[again] == "FAILED"  # the folder is hidden still


def test_cancel_takes_the_ones_it_is_given(jobs: dict[str, Job]) -> None:
    answer = sweep("cancel", jobs["waits"].folder, "0")
    assert answer.text == f"job 0: Slurm job {jobs['waits'].slurm} cancelled\n"
    assert jobs["waits"].state == "CANCELLED"
