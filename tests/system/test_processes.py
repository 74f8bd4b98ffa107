"""How many CPUs a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plainloop.system.processes import cpus_of_rank, num_cpus

FILES = {"2": ("cpu.max", "{quota} 100000"), "1": ("cpu/cpu.cfs_quota_us", "{quota}")}


@pytest.mark.parametrize("version", FILES)
@pytest.mark.parametrize(("quota", "cpus"), [(100_000, 1), (250_000, 2), (10_000, 1), (-1, 3), (800_000, 3)])
def test_a_containers_quota_counts(
    version: str, quota: int, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    groups = tmp_path / "sys/fs/cgroup"
    (groups / "cpu").mkdir(parents=True)
    (groups / "cpu/cpu.cfs_period_us").write_text("100000\n")
    name, text = FILES[version]
    (groups / name).write_text(text.format(quota="max" if version == "2" and quota < 0 else quota))
    assert num_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("group", "cpus"), [("/", 4), ("/job_7", 2), ("/job_7/step_0", 2), ("/../elsewhere", 6)])
def test_a_quota_of_any_group_around_the_process_counts(
    group: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    for name, quota in (("", 4), ("job_7", 2), ("job_7/step_0", 3)):
        (tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/fs/cgroup" / name / "cpu.max").write_text(f"{quota}00000 100000\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"0::{group}\n")
    if cpus == 6:
        (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert num_cpus(tmp_path) == cpus


def test_a_slurm_jobs_cpus_count_where_nothing_binds_it_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")
    assert num_cpus(Path("/nowhere")) == 6


@pytest.mark.parametrize(
    ("affinity", "tasks", "per_task", "ranks_here", "cpus"),
    [
        (8, "4(x2)", "8", "4", 8),  # Slurm has bound each task to its own
        (64, "4", "8", "4", 8),  # it binds none
        (32, "1", "32", "4", 8),  # torchrun in one task
        (32, "4", "", "4", 8),  # no --cpus-per-task
        (3, "1", "", "4", 1),
    ],
)
def test_a_rank_has_its_own_tasks_cpus_or_an_equal_part(
    affinity: int, tasks: str, per_task: str, ranks_here: str, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    for name, value in (("STEP_TASKS_PER_NODE", tasks), ("CPUS_PER_TASK", per_task)):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks_here)
    assert cpus_of_rank() == cpus
