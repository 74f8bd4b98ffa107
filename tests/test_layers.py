"""The house keeps its shape: imports go down only, files stay readable, what answers without torch does not load it."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"

# From the top down. A room imports from rooms below its own; rooms of one line do not know one another.
LAYERS = (
    ("commands",),
    ("sweep",),
    ("run",),
    ("report",),
    ("config",),
    ("run_dir",),
    ("loop",),
    ("data", "tasks", "augment", "loggers", "models", "schedule"),
    ("distributed",),
    ("system",),
    ("contracts", "errors"),
)
LEVEL = {part: level for level, parts in enumerate(reversed(LAYERS)) for part in parts}

# `--help`, a wrong key and a finished run answer before any of these is loaded.
HEAVY = {"torch", "torchvision", "timm", "wandb", "submitit", "matplotlib", "numpy", "sklearn", "scipy", "PIL"}
LIGHT = ("commands.train", "commands.sweep", "config", "contracts", "errors", "run_dir.journal", "schedule", "sweep")

MOST_FOLDERS, MOST_MODULES_AT_THE_TOP, MOST_MODULES = 14, 4, 12  # beside __init__
MOST_COMMANDS = 20  # each module of commands/ is one command, named as its script
MOST_LINES = 320
FILES = sorted((SRC / "plainloop").rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """plainloop.data.loading.sampler -> data"""
    return module.split(".")[1] if "." in module else ""


def statements(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.stmt]:
    """The import statements that run; those under `if TYPE_CHECKING` do not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(node, inside_functions=inside_functions)


def imported(source: str, *, inside_functions: bool = True) -> set[str]:
    """Names of the modules that a source imports; `from plainloop import rng` is plainloop.system.rng."""
    names = set()
    for node in statements(ast.parse(source), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert isinstance(node, ast.ImportFrom)
            assert node.level == 0, "imports are absolute"
            own = node.module == "plainloop"
            names |= {f"plainloop.{alias.name}" for alias in node.names} if own else {node.module or ""}
    return names


def upward(module: str, source: str) -> list[str]:
    """What of plainloop a module imports that is not below it."""
    part = part_of(module)
    others = {part_of(name) for name in imported(source) if name.startswith("plainloop.")} - {part}
    level = LEVEL[part] if part else len(LAYERS)  # the package itself stands above all of them
    return sorted(other for other in others if LEVEL[other] >= level)


def loaded_by(module: str) -> set[str]:
    """The names of everything that importing a module of ours imports, followed through our own modules."""
    files = {module_name(file): file for file in FILES}
    found: set[str] = set()
    waiting = [module]
    while waiting:
        names = imported(files[waiting.pop()].read_text(), inside_functions=False) - found
        found |= names
        waiting += [name for name in names if name in files]
    return found


def test_every_part_has_its_place_in_the_layers() -> None:
    parts = {part_of(module_name(file)) for file in FILES} - {""}
    assert parts <= LEVEL.keys(), f"say in LAYERS where these stand: {sorted(parts - LEVEL.keys())}"


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_down_only(file: Path) -> None:
    assert upward(module_name(file), file.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("plainloop.contracts", "from plainloop.system.rng import fold", ["system"]),
        ("plainloop.loop.trainer", "def f():\n    from plainloop import run", ["run"]),
        ("plainloop.system.rng", "import plainloop.distributed", ["distributed"]),
        ("plainloop.tasks.classification", "from plainloop.data.memory import InMemory", ["data"]),
        ("plainloop.loggers.csv", "from plainloop.config.durations import parse", ["config"]),
        ("plainloop.run.run", "from plainloop.loop.trainer import Trainer", []),
    ],
)
def test_an_import_upwards_is_noticed(module: str, source: str, wrong: list[str]) -> None:
    assert upward(module, source) == wrong


def test_no_modules_import_one_another_in_a_circle() -> None:
    imports = {module_name(file): imported(file.read_text(), inside_functions=False) for file in FILES}
    assert circle(imports) == []


def test_a_circle_is_noticed() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a", "x"}, "x": set()}) == ["a", "b", "c", "a"]


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The first circle of modules that import one another; [] where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        found = next((c for name in sorted(imports.get(module, ())) if (c := walk(name, [*path, module]))), [])
        done.add(module)
        return found

    return next((found for module in imports if (found := walk(module, []))), [])


@pytest.mark.parametrize("light", LIGHT)
def test_what_answers_without_torch_imports_nothing_heavy(light: str) -> None:
    modules = [name for file in FILES if f"{(name := module_name(file))}.".startswith(f"plainloop.{light}.")]
    assert modules
    for module in modules:
        heavy = {name.split(".")[0] for name in loaded_by(module)} & HEAVY
        assert not heavy, f"{module} loads {sorted(heavy)} when it is imported"


def test_a_heavy_import_is_noticed_outside_functions_only() -> None:
    assert imported("import torch", inside_functions=False) == {"torch"}
    assert imported("class A:\n    import torch.nn", inside_functions=False) == {"torch.nn"}
    assert imported("def f():\n    import torch", inside_functions=False) == set()
    assert imported("if TYPE_CHECKING:\n    import torch", inside_functions=False) == set()


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_a_file_is_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MOST_LINES


def test_a_room_is_seen_at_one_glance() -> None:
    package = SRC / "plainloop"
    counts = {folder: len([f for f in folder.glob("*.py") if f.name != "__init__.py"]) for folder in folders(package)}
    assert len([folder for folder in folders(package) if folder.parent == package]) <= MOST_FOLDERS
    assert counts.pop(package) <= MOST_MODULES_AT_THE_TOP
    assert counts.pop(package / "commands") <= MOST_COMMANDS
    assert {str(folder): count for folder, count in counts.items() if count > MOST_MODULES} == {}


def folders(package: Path) -> set[Path]:
    return {file.parent for file in FILES} | {package}


def test_packages_have_empty_inits_so_that_a_name_has_one_import_path() -> None:
    # `plainloop.load` and the one function of distributed import torch late.
    but = (SRC / "plainloop/__init__.py", SRC / "plainloop/distributed/__init__.py")
    for file in FILES:
        if file.name == "__init__.py" and file not in but:
            body = ast.parse(file.read_text()).body
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), file


def test_the_package_offers_load_alone_and_imports_nothing_for_it() -> None:
    watched = (
        "import sys, plainloop; print(*plainloop.__all__, *sorted(set(sys.stdin.read().split()) & {*sys.modules}))"
    )
    command = [sys.executable, "-c", watched]
    heavy = " ".join(HEAVY)
    found = subprocess.run(command, cwd=SRC, input=heavy, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout == "load\n"


def test_other_packages_may_share_the_name_of_hydras_plugins() -> None:
    assert not (SRC / "hydra_plugins/__init__.py").exists()


# Runs train.py as a person would, and tells afterwards which heavy packages were loaded.
WATCHED = """
import runpy, sys
sys.argv[0] = "train.py"
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as end:
    print("CODE", 0 if end.code is None else end.code, file=sys.stderr)
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules} & set(sys.stdin.read().split())), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        (["--help"], 0),
        (["optimizer.learning_rte=0.1"], 64),
        (["optimizr=sgd"], 64),
        (["optimizer=sdg"], 64),
        (["trainer.duration=5epochs"], 64),
        (["scheduler.lr_decay_epochs=[3]"], 64),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_slips_of_the_pen_answer_without_torch(typed: list[str], code: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, *typed],
        cwd=ROOT,
        input=" ".join(sorted(HEAVY)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"CODE {code}\n" in result.stderr, result.stdout + result.stderr
    assert result.stderr.endswith("LOADED\n"), result.stderr


def code_outside_of_src() -> dict[str, str]:
    """Scripts and benchmarks, and the Python that documents show."""
    files = [ROOT / "train.py", *ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")]
    found = {str(file.relative_to(ROOT)): file.read_text() for file in files}
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        found |= {f"{page.name} {number}": block for number, block in enumerate(blocks)}
    return found


@pytest.mark.parametrize("place", code_outside_of_src())
def test_what_scripts_benchmarks_and_documents_import_is_there(place: str) -> None:
    for node in statements(ast.parse(code_outside_of_src()[place]), inside_functions=True):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("plainloop", "hydra_plugins"):
            module = importlib.import_module(str(node.module))
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), name
