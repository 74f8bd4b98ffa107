"""The README and docs/ show what there is: tables, commands, links and the example package agree with the code."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from plainloop import errors
from plainloop.report.plan import plan_of
from tests.harness.commands import ROOT, passed, problems
from tests.test_layers import LAYERS

PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
PAGES |= {f"docs/{file.name}": file.read_text() for file in sorted((ROOT / "docs").glob("*.md"))}
CODE_BLOCK = r"^```(?:python|yaml)\n# (my_package/\S+)\n(.*?)^```"
COMMANDS = [
    re.sub(r"\s+#.*", "", line)
    for text in PAGES.values()
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^python train\.py (.*)$", block.replace("\\\n", " "), re.MULTILINE)
]
# A placeholder, a run or a folder that is not here, Hydra's own flags, the package of this test's last case.
CHECKED = [command for command in COMMANDS if not re.search(r"<|resume=|--|slurm|data.root=digits", command)]


def rows(page: str, heading: str) -> list[tuple[str, str]]:
    """The first two cells of each row of the table whose first column has this heading."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGES[page], re.MULTILINE).group(1)
    return [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table.splitlines()]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pets")
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(64):
            Image.new("RGB", (4, 4), (i, i, i)).save(root / name / f"{i}.png")
    return root


def test_every_group_is_listed_with_its_options() -> None:
    listed = {quoted(group)[0]: set(quoted(options)) for group, options in rows("README.md", "group")}
    own = {"hydra", "local"}
    assert listed.keys() == {folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()} - own
    for group, named in listed.items():
        there = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
        assert {name for name in named if "=" not in name} == there, f"the README and conf/{group} differ"


def test_every_exit_code_is_listed() -> None:
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    assert codes <= {int(code) for code, _ in rows("docs/reliability.md", "code") if code.isdigit()}


def test_words_of_other_codes_are_answered() -> None:
    for there, _ in rows("docs/coming_from.md", "there"):
        for word in quoted(there):
            assert problems(f"{word}=1")[word].instead, f"{word}: the answer names nothing to type"


@pytest.mark.parametrize("command", sorted(set(CHECKED)))
def test_a_command_that_is_shown_passes_the_check(command: str, pets: Path) -> None:
    typed = [word for word in shlex.split(command) if word not in ("-m", "check=true")]
    for key, values in [word.partition("=")[::2] for word in typed]:  # a sweep: the last value of each list
        typed[typed.index(f"{key}={values}")] = f"{key}={values.split(',')[-1] if '[' not in values else values}"
    assert plan_of(passed(*(word.replace("/data/pets", str(pets)) for word in typed)))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_file_that_is_named_exists(page: str) -> None:
    linked = [(ROOT / page).parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[page])]
    named = [
        ROOT / name for name in quoted(PAGES[page]) if re.fullmatch(r"(src|tests|conf|docs|scripts)/[\w/.]+", name)
    ]
    named += [ROOT / f"tests/slurm/{name}.py" for name in re.findall(r"\| (test_\w+)", PAGES[page])]
    for path in [*linked, *named]:
        assert path.exists() or "conf/local" in str(path), f"{page} names {path}"


def test_contributing_has_the_tested_order_of_imports() -> None:
    chain = " ".join(re.findall(r"^> (.*)$", PAGES["CONTRIBUTING.md"], re.MULTILINE)).split("→")
    rooms = [set(re.findall(r"\w+", part)) for part in chain]
    assert [room for room in rooms if room != {"hydra_plugins"}] == [set(layer) for layer in LAYERS]


def test_the_package_that_is_shown_trains_without_an_edit_here(tmp_path: Path) -> None:
    for name, code in re.findall(CODE_BLOCK, PAGES["docs/your_own_parts.md"], re.MULTILINE | re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    typed = next(command for command in COMMANDS if "my_package/conf" in command)
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *typed.split(), "trainer.duration=10ep", "hydra.run.dir=run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["best"]["value"] > 0.9
