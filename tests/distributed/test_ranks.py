"""Every launcher's words for a process's place among others, in one language."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plainloop.distributed import ranks
from plainloop.errors import BadConfig
from tests.distributed.test_ways_to_start import open_mpi, srun


@pytest.fixture(autouse=True)
def nobody_dealt_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = (*ranks.OURS, ranks.RENDEZVOUS, "MASTER_ADDR", "MASTER_PORT")
    for name in names:  # deleted again afterwards, though `adopt` sets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def deal(monkeypatch: pytest.MonkeyPatch, words: dict[str, str]) -> dict[str, str]:
    """What `adopt` makes of them."""
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    ranks.read_launcher_variables()
    return {name: os.environ[name] for name in ranks.OURS if name in os.environ}


@pytest.mark.parametrize("words", [open_mpi(1, 2), srun(1, 2)], ids=["mpirun", "srun"])
def test_ranks_of_one_machine_meet_in_a_folder_of_their_own(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, str]
) -> None:
    assert deal(monkeypatch, words) == dict(zip(ranks.OURS, ("1", "2", "1", "2"), strict=True))
    place = ranks.rendezvous_folder()
    assert place is not None
    assert place.stat().st_mode & 0o777 == 0o700
    assert ranks.on_one_machine()


@pytest.mark.parametrize("words", [{}, open_mpi(0, 1), {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, srun(0, 1)])
def test_one_process_has_no_place(monkeypatch: pytest.MonkeyPatch, words: dict[str, str]) -> None:
    """A batch script of four tasks is no rank; nor is an interactive shell."""
    assert deal(monkeypatch, words) == {}


def test_what_torchrun_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt = deal(monkeypatch, {"RANK": "3", "WORLD_SIZE": "4"} | open_mpi(0, 2))
    assert (dealt["RANK"], dealt["WORLD_SIZE"]) == ("3", "4")


def test_several_machines_need_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match="cannot know where to meet"):
        deal(monkeypatch, open_mpi(1, 4) | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    for name in ranks.OURS:
        del os.environ[name]
    deal(monkeypatch, {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"})
    assert ranks.rendezvous_folder() is None
    assert not ranks.on_one_machine()


def test_a_folder_that_others_may_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    deal(monkeypatch, open_mpi(1, 2))
    place = ranks.rendezvous_folder()
    assert place is not None
    place.chmod(0o777)
    for name in ranks.OURS:
        del os.environ[name]
    with pytest.raises(BadConfig, match="must be yours alone"):
        ranks.read_launcher_variables()
