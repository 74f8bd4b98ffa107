"""How many CPUs a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plainloop.system.processes import num_cpus

FILES = {"2": ("cpu.max", "{quota} 100000"), "1": ("cpu/cpu.cfs_quota_us", "{quota}")}


@pytest.mark.parametrize("version", FILES)
@pytest.mark.parametrize(("quota", "cpus"), [(100_000, 1), (250_000, 2), (10_000, 1), (-1, 3), (800_000, 3)])
def test_a_containers_quota_counts(
    version: str, quota: int, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    name, text = FILES[version]
    (tmp_path / name).write_text(text.format(quota="max" if version == "2" and quota < 0 else quota))
    assert num_cpus(tmp_path) == cpus
