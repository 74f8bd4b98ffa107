"""The command line, as a stranger types it: what it answers, with which code, and what it leaves on disk."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

# Runs train.py and says on the last line of stderr whether torch was loaded.
WATCHED = """
import atexit, runpy, sys
atexit.register(lambda: sys.stderr.write(f"torch={'torch' in sys.modules} timm={'timm' in sys.modules}\\n"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SHORT = ("trainer.duration=20st", "trainer.log_every=5", "trainer.eval_every=10st", "trainer.save_every=10st")
SECONDS = 1.8 * 3  # of CPU; on a machine with other things to do they are more than its own 1.8. torch alone takes 3


def train(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WATCHED, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def cpu_seconds() -> float:
    """Of the processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def loss(folder: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one short run, outputs/one, is done."""
    folder = tmp_path_factory.mktemp("finished")
    done = train(folder, *SHORT, "hydra.run.dir=outputs/one")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def one(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optimizer.weight_dcay=0.1"], "did you mean: optimizer.weight_decay   (conf/optimizer/adamw.yaml:7)"),
        (["optimizer=sdg"], "did you mean: optimizer=sgd"),
        (["trainer.duration=90"], "type instead: trainer.duration=90ep, or trainer.duration=90st"),
        (["--epochs", "3"], "type instead: trainer.duration=3ep"),
        (["--config", "x.yml", "--do_eval"], "here that is `experiment`"),
        (["model._target_=os.system"], "is not allowed"),
        (["-m", "optimiser=sgd", "seed=0,1"], "config error in jobs 0, 1 of 2"),
        (["resume=nowhere"], "resume: nowhere does not exist"),
    ],
)
def test_what_is_wrong_is_told_without_torch_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    begun = cpu_seconds()
    done = train(tmp_path, *arguments)
    assert cpu_seconds() - begun < SECONDS
    assert expected in done.stderr
    assert done.returncode == 64
    assert done.stderr.splitlines()[-1] == "torch=False timm=False"
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 16
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--hydra-help"], ["--version"], ["--cfg", "job"], ["--info", "defaults"]]
)
def test_what_only_informs_needs_no_torch(tmp_path: Path, arguments: list[str]) -> None:
    begun = cpu_seconds()
    done = train(tmp_path, *arguments)
    assert cpu_seconds() - begun < SECONDS
    assert (done.returncode, done.stderr) == (0, "torch=False timm=False\n")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("typed", "part", "expected"),
    [
        (["hydra/launcher=submitit_slurm", "--cfg", "hydra"], "hydra.launcher._target_", "plainloop_launchers"),
        (["debug=nan", "--cfg", "job"], "trainer.detect_anomaly", "true"),
        (["data.batch_size_per_device=16", "-c", "job"], "data.batch_size_per_device", "16"),
        (["data.batch_size_per_device=16", "trainer.devices=2", "--resolve", "--cfg", "job"], "data.batch_size", "32"),
        (["--resolve", "--cfg", "job"], "model.num_classes", "10"),
        (["resume=outputs/one", "--cfg", "job"], "trainer.duration", "20st"),
        (["--cfg", "all"], "seed", "0"),
    ],
)
def test_what_cfg_shows_is_what_runs(finished: Path, typed: list[str], part: str, expected: str) -> None:
    shown = train(finished, *typed, "--package", part)
    assert (shown.returncode, expected in shown.stdout) == (0, True), shown.stdout + shown.stderr


def test_help_names_groups_options_keys_and_examples_that_exist(tmp_path: Path) -> None:
    text = train(tmp_path, "--help").stdout
    assert "optimizer: adadelta, adagrad, adam, adamw, lamb, lion, muon, nadam, rmsprop, sgd, timm" in text
    assert text.count("python train.py") == 4
    from plainloop.config.compose.composer import Composer
    from plainloop.config.nodes import key_paths

    composer = Composer(ROOT / "conf")
    keys = set(key_paths(composer.compose(["data=image_folder", "model=timm"])))
    block = text.split("Most used keys")[1].split("== Examples")[0]
    named = [line.split("=")[0] for line in block.splitlines() if line[:1].isalpha() and "=" in line]
    assert len(named) == 10
    assert set(named) <= keys


def test_without_the_virtual_environment_it_says_what_to_type() -> None:
    bare = subprocess.run([sys.executable, "-S", str(ROOT / "train.py")], capture_output=True, text=True, timeout=60)
    assert (bare.returncode, bare.stdout) == (1, "")
    assert "type `make setup` once, and `. .venv/bin/activate` in each shell" in bare.stderr


def test_full_errors_are_for_those_who_ask(tmp_path: Path) -> None:
    assert "Traceback" in train(tmp_path, "optimizer=sdg", HYDRA_FULL_ERROR="1").stderr


def test_the_plan_trains_nothing(tmp_path: Path) -> None:
    done = train(tmp_path, "check=true", *SHORT)
    assert done.returncode == 0
    assert "steps         20 = 20st" in done.stdout
    assert files(tmp_path) == []


def test_a_run_leaves_the_run_directory_of_the_design(finished: Path) -> None:
    left = set(files(finished / "outputs" / "one"))
    assert {"config.yaml", "status.json", "metrics.jsonl", "summary.json", "environment.json", "train.log"} <= left
    assert {".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "last.safetensors"} <= left
    saved = yaml.safe_load((finished / "outputs" / "one" / "config.yaml").read_text())
    assert (saved["trainer"]["duration"], saved["facts"]["num_classes"]) == ("20st", 10)
    assert files(finished) == [f"outputs/one/{name}" for name in sorted(left)]


def test_the_run_directory_is_named_by_name_and_time(tmp_path: Path) -> None:
    assert train(tmp_path, "debug=one_batch", "name=mine").returncode == 0
    (run,) = (tmp_path / "outputs" / "mine").iterdir()
    assert len(run.name) == len("2026-01-31_23-59-59-123456")


@pytest.mark.parametrize("arguments", [[*SHORT, "hydra.run.dir=outputs/one"], ["resume=outputs/one"]])
def test_a_finished_run_says_done_without_torch_and_changes_nothing(one: Path, arguments: list[str]) -> None:
    before = {name: (one / name).read_bytes() for name in files(one)}
    begun = cpu_seconds()
    done = train(one, *arguments)
    assert cpu_seconds() - begun < SECONDS
    assert (done.returncode, done.stderr) == (0, "torch=False timm=False\n")
    assert done.stdout.startswith("done: outputs/one is finished: best val/top1 ")
    assert {name: (one / name).read_bytes() for name in files(one)} == before


def test_a_run_is_continued_in_its_directory_under_its_own_config(one: Path) -> None:
    run = one / "outputs" / "one"
    hydra = {name: (run / ".hydra" / name).read_bytes() for name in os.listdir(run / ".hydra")}
    rows = (run / "metrics.jsonl").read_text()
    unfinish(run, step=10)
    done = train(one, "resume=outputs/one")
    assert done.returncode == 0, done.stderr
    assert "going on from step 10" in done.stdout
    assert untimed((run / "metrics.jsonl").read_text()) == untimed(rows)
    assert {name: (run / ".hydra" / name).read_bytes() for name in os.listdir(run / ".hydra")} == hydra
    assert os.listdir(one / "outputs") == ["one"]


def test_a_run_goes_on_when_the_weights_that_it_began_with_are_gone(one: Path) -> None:
    weights, run = one / "before.safetensors", one / "outputs" / "two"
    shutil.copy(one / "outputs" / "one" / "last.safetensors", weights)
    again = (*SHORT, f"hydra.run.dir={run}", f"init_from={weights}")
    assert train(one, *again).returncode == 0
    whole = (run / "last.safetensors").read_bytes()
    weights.unlink()
    for typed in (again, (f"resume={run}",), (f"resume={run}", "init_from=null")):
        unfinish(run, step=10)
        done = train(one, *typed)
        assert (done.returncode, (run / "last.safetensors").read_bytes() == whole) == (0, True), done.stderr
    assert train(one, *again).stdout.startswith("done: ")
    assert yaml.safe_load((run / "config.yaml").read_text())["init_from"] == str(weights)


def test_auto_finds_the_newest_unfinished_run_of_the_same_config(one: Path) -> None:
    runs = one / "outputs" / "train"
    for name in ("2026-01-01_00-00-00-000000", "2026-01-02_00-00-00-000000", "2026-01-03_00-00-00-000000"):
        shutil.copytree(one / "outputs" / "one", runs / name)
    unfinish(runs / "2026-01-01_00-00-00-000000", step=10)
    unfinish(runs / "2026-01-02_00-00-00-000000", step=10)
    done = train(one, *SHORT, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert "run: outputs/train/2026-01-02_00-00-00-000000" in done.stdout
    assert len(list(runs.iterdir())) == 3


def test_auto_starts_anew_where_only_other_configs_are_unfinished(one: Path) -> None:
    runs = one / "outputs" / "train"
    shutil.copytree(one / "outputs" / "one", runs / "2026-01-01_00-00-00-000000")
    unfinish(runs / "2026-01-01_00-00-00-000000", step=10)
    assert train(one, *SHORT, "seed=7", "resume=auto").returncode == 0
    assert len(list(runs.iterdir())) == 2


def test_another_config_is_refused_in_three_columns(one: Path) -> None:
    unfinish(one / "outputs" / "one", step=10)
    done = train(one, "resume=outputs/one", "optimizer.lr=0.5")
    assert done.returncode == 64
    assert ["optimizer.lr", "0.001", "0.5"] in [line.split() for line in done.stderr.splitlines()]


def test_a_sweep_trains_every_job_and_numbers_them(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", *SHORT, "seed=0,1", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep" / "multirun.yaml").exists()
    assert [yaml.safe_load((tmp_path / "sweep" / n / "config.yaml").read_text())["seed"] for n in "01"] == [0, 1]
    assert loss(tmp_path / "sweep" / "0") != loss(tmp_path / "sweep" / "1")


def test_one_failed_job_does_not_hide_the_others(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", *SHORT, "hydra.sweep.dir=sweep", "optimizer=sgd", "optimizer.lr=1e30,0.1")
    assert done.returncode == 71, done.stderr
    assert json.loads((tmp_path / "sweep" / "0" / "status.json").read_text())["state"] == "FAILED"
    assert json.loads((tmp_path / "sweep" / "1" / "status.json").read_text())["state"] == "DONE"


def test_old_launchers_flag_is_ignored(tmp_path: Path) -> None:
    assert train(tmp_path, "--local_rank=0", "check=true").returncode == 0
    assert train(tmp_path, "--local-rank", "0", "check=true").returncode == 0


def test_ranks_other_than_0_say_nothing_of_a_wrong_config(tmp_path: Path) -> None:
    done = train(tmp_path, "optimizer=sdg", RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    assert (done.returncode, done.stdout, done.stderr) == (64, "", "torch=False timm=False\n")


def test_a_sweep_is_not_started_by_every_rank(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "seed=0,1", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert done.returncode == 64
    assert "-m without torchrun" in done.stderr


def unfinish(run: Path, *, step: int) -> None:
    """Takes a finished run back to an earlier checkpoint, as a kill would have left it."""
    for path in (run / "checkpoints").glob("step_*"):
        if int(path.stem.split("_")[1]) > step:
            path.unlink()
    for name in ("summary.json", "last.safetensors", "best.safetensors"):
        (run / name).unlink(missing_ok=True)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "RUNNING", "pid": 1 << 30, "step": step}))
    attempts = (run / "attempts.jsonl").read_text().splitlines(keepends=True)
    (run / "attempts.jsonl").write_text(attempts[0])


def untimed(rows: str) -> list[dict]:
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in rows.splitlines()]
