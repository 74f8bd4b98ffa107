"""What the README shows is what there is: its tables are held against the code, and its own package trains."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop import errors
from plainloop.config.explain.other_codes import ours

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def rows(heading: str) -> list[tuple[str, str]]:
    """The rows of the first table below a heading of two columns, without its first."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE).group(1)
    return [(left.strip(), right.strip()) for left, right in re.findall(r"^\| (.*?) \| (.*) \|$", table, re.MULTILINE)]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def write_package(folder: Path) -> None:
    """Every block that begins with a comment "my_package/..." becomes that file."""
    for name, code in re.findall(
        r"^```(?:python|yaml)\n# (my_package/\S+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)


def test_every_group_is_listed_with_its_options() -> None:
    listed = {quoted(group)[0]: set(quoted(options)) for group, options in rows("group")}
    for group, named in listed.items():
        there = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
        assert {name for name in named if "=" not in name} == there, f"the README and conf/{group} differ"


def test_every_exit_code_is_listed() -> None:
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    assert codes <= {int(code) for code, _ in rows("exit code")}


def test_names_from_elsewhere_are_known() -> None:
    for there, _ in rows("there"):
        for name in quoted(there):
            assert ours(name) is not None, f"{name}: config/foreign.py does not know it"


@pytest.mark.parametrize("flag", ["check=true", "trainer.duration=10ep"])
def test_the_package_that_the_readme_shows_trains_without_an_edit_here(tmp_path: Path, flag: str) -> None:
    write_package(tmp_path)
    command = re.search(r"^python train.py (--config-dir my_package/conf .*?[^\\])\n", README, re.MULTILINE | re.DOTALL)
    typed = command.group(1).replace("\\\n", " ").split()
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *typed, flag, "hydra.run.dir=run", "device=cpu"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    if flag == "check=true":
        assert not (tmp_path / "run").exists()
    else:
        assert json.loads((tmp_path / "run/summary.json").read_text())["best"]["value"] > 0.9
