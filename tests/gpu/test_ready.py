"""What a machine without a network is made ready with, and what it is told where that is not enough."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks import gpu_pack, gpu_ready
from tests.harness.configs import ROOT


def write_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "value = 1\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone that needs three packages: torch, which is there, and two that are packed."""
    wheels = tmp_path / ".gpu" / "pack" / "wheels"
    wheels.mkdir(parents=True)
    needed = '    "torch>=2.10",\n    "absent-one>=1.5",\n    "wandb>=99",\n'
    (tmp_path / "pyproject.toml").write_text(f"dependencies = [\n{needed}]\n")
    write_wheel(wheels, "absent_one", "1.6")
    write_wheel(wheels, "absent_below", "0.1")
    write_wheel(wheels, "torch", "99.0")
    monkeypatch.setattr(gpu_ready, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_ready, "PACK", tmp_path / ".gpu" / "pack")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["gpu_ready.py", "--device", "cpu"])
    return tmp_path


def test_what_is_missing_comes_from_the_pack_and_what_is_there_stays(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_ready.main()
    site = Path(capsys.readouterr().out.strip())
    assert {path.name for path in site.glob("*.py")} == {"absent_one.py", "absent_below.py"}
    before = site.stat().st_mtime_ns
    gpu_ready.main()
    assert site.stat().st_mtime_ns == before  # nothing is installed twice


def test_what_was_not_packed_is_named_with_the_command_that_packs_it(packed: Path) -> None:
    (packed / ".gpu/pack/wheels/absent_one-1.6-py3-none-any.whl").unlink()
    with pytest.raises(SystemExit, match=r"lacks absent-one \(missing\); .*make pack-gpu ARGS='--python 3\.\d+'"):
        gpu_ready.main()


def test_without_a_gpu_one_message_says_that_nothing_was_run() -> None:
    command = [sys.executable, "benchmarks/gpu_ready.py"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "sees no CUDA device (CUDA_VISIBLE_DEVICES=''): nothing was run. DEVICE=cpu tries" in done.stderr
    assert done.stdout == ""


def test_the_pack_holds_all_that_the_code_needs_but_what_is_left_out() -> None:
    names = gpu_pack.closure(list(gpu_ready.floors()), left_out=gpu_pack.LEFT_OUT)
    pins = gpu_pack.pins_of((ROOT / "requirements.lock").read_text())
    assert names <= pins.keys()
    assert gpu_ready.floors().keys() - names == {"torch", "torchvision", "numpy", "pillow", "scikit-learn"}
