"""environment.json: git as it is, versions, devices; no secrets; and what bit-exactness depends on."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch

from plainloop.run_dir.environment import MOST_DIFF, environment, fingerprint, fingerprint_differences, git_state


@pytest.fixture
def repository(tmp_path):
    for command in (
        ["init", "-q"],
        ["config", "user.email", "a@example.org"],
        ["config", "user.name", "a"],
        ["remote", "add", "origin", "https://me:remotecanary@example.org/a.git"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "a.py").write_text("x = 1\n")
    subprocess.run(["git", "add", "a.py"], cwd=tmp_path, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "one"], cwd=tmp_path, check=True)
    return tmp_path


def test_it_is_json_and_names_versions_and_devices():
    found = json.loads(json.dumps(environment()))
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()


def test_a_change_is_in_the_diff_and_a_new_file_in_the_list_and_a_long_diff_is_cut(repository):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True).stdout.strip()
    clean = {"commit": head, "dirty": False, "changed": [], "diff": "", "diff_complete": True}
    assert git_state(repository) == clean
    (repository / "a.py").write_text("x = 2\n")
    (repository / "b.py").write_text("")
    state = git_state(repository)
    assert state["dirty"]
    assert state["changed"] == [" M a.py", "?? b.py"]
    assert "-x = 1\n+x = 2\n" in state["diff"]
    (repository / "a.py").write_text("x = 2\n" * 50_000)
    state = git_state(repository)
    assert (len(state["diff"]), state["diff_complete"]) == (MOST_DIFF, False)


@pytest.mark.parametrize("variable", ["PATH", "GIT_CEILING_DIRECTORIES"], ids=["without git", "outside"])
def test_without_git_or_outside_of_a_repository_there_is_none(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path.parent))
    assert git_state(tmp_path) is None


def put_git_in_the_path(script, folder, monkeypatch):
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_git_that_hangs_is_left_alone(repository, tmp_path, monkeypatch):
    put_git_in_the_path("exec sleep 60\n", tmp_path / "bin", monkeypatch)
    monkeypatch.setattr("plainloop.run_dir.environment.GIT_TIMEOUT_S", 0.2)
    since = time.monotonic()
    assert git_state(repository) is None
    assert time.monotonic() - since < 50


def test_a_signal_to_the_job_does_not_end_git(repository, tmp_path, monkeypatch):
    """A git that signals itself as Slurm would; negative control: unprotected, it dies of it."""
    put_git_in_the_path("kill -USR2 $$\nkill -TERM $$\necho survived\n", tmp_path / "bin", monkeypatch)
    assert subprocess.run([tmp_path / "bin/git"], capture_output=True).returncode == -signal.SIGUSR2
    assert git_state(repository)["commit"] == "survived"


def test_no_secret_of_environment_remote_or_diff_is_written(repository, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "envcanary123")
    monkeypatch.setenv("HARMLESS", "othercanary")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    (repository / "a.py").write_text("key = 'envcanary123'\npassword = 'diffcanary'\n")
    text = json.dumps(environment(repository))
    assert [word for word in ("envcanary123", "othercanary", "remotecanary", "diffcanary") if word in text] == []
    assert environment(repository)["variables"]["SLURM_JOB_ID"] == "77"


def test_one_environment_has_one_fingerprint_which_survives_json():
    here = fingerprint(environment())
    assert fingerprint_differences(json.loads(json.dumps(here)), fingerprint(environment())) == []
    assert fingerprint_differences(here, here | {"threads": 64}) == [f"threads: {here['threads']} before, 64 now"]
