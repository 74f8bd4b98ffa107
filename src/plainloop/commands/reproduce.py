"""Trains a recipe with several seeds, compares the mean with the published number, and writes a card: PASS or FAIL.

Type experiment=<name>, what names its member (docs/recipes.md) and seeds=5: the seeds 0 to 4. The runs are a sweep in
outputs/reproduce/<recipe>; the same command again continues it. PASS: the 95 % interval of the
mean (Student's t, over the seeds) lies above the published number less its tolerance. FAIL: below. Else UNDECIDED.
The exit code is 0 for PASS, 1 for FAIL and UNDECIDED; 75 while runs are not finished.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf

from plainloop.commands.composed import CONF, answer, parser_of, take_word
from plainloop.commands.train import checked_sweep, register_launchers, run_sweep
from plainloop.config.compare import changes_result
from plainloop.config.compose import command as command_line
from plainloop.config.compose.composer import Composer
from plainloop.config.explain.problems import invalid_run
from plainloop.errors import BadConfig, Preempted, counted
from plainloop.loggers.screen import columns
from plainloop.report import recipe as recipes
from plainloop.report.plan import plan_of
from plainloop.report.recipe import Published
from plainloop.run_dir.status import read_status, read_summary
from plainloop.sweep import index
from plainloop.sweep.job import Job
from plainloop.sweep.numbering import recognize
from plainloop.system import storage

EXAMPLES = (
    "experiment=fashion_mnist_quick seeds=3 data.download=true",
    "experiment=cifar10_resnet20 model.depth=56 seeds=5 hydra/launcher=gpu_pool",
    "experiment=resnet50_in1k_augment augment=[standard,mixup] seeds=3 data.root=/data/imagenet check=true",
    "--list",
)
CARDS = CONF.parent / "docs" / "recipes"
OF_THE_COMMAND = ("experiment", "check", "plugins", "name")  # change no result


def main(arguments: Sequence[str]) -> int:
    """`python scripts/reproduce.py`; the exit code."""
    parser = parser_of("reproduce", __doc__ or "", EXAMPLES)
    parser.add_argument("--out", type=Path, help="folder of the card; otherwise that of the sweep")
    parser.add_argument("--list", action="store_true", help="print all published numbers, and what was measured here")
    options, rest = parser.parse_known_args(arguments)
    if options.list:
        return answer(show_list)
    command = shlex.join(["python", "scripts/reproduce.py", *arguments])
    return answer(lambda: reproduce(rest, out=options.out, command=command))


def show_list() -> int:
    composer = Composer(CONF)
    written = {name: composer.written("experiment", name) for name in composer.groups["experiment"]}
    nodes = {
        name: {key: values[f"published.{key}"] for key in recipes.KEYS}
        for name, values in written.items()
        if values.get("published") is not None
    }
    known = (storage.read_json(file) for file in sorted(CARDS.glob("*.json")))
    lines = recipes.listing(nodes, filter(None, known))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def reproduce(words: list[str], *, out: Path | None, command: str) -> int:
    seeds = num_seeds(take_word("seeds", words))
    typed = command_line.parse(words)
    register_launchers(CONF)
    composer = Composer(CONF, config_name=typed.config_name, extra_dir=typed.config_dir)
    typed.overrides = composer.as_names(typed.overrides)
    recipe = typed.value_of("experiment")
    if not recipe or typed.value_of("seed") is not None or typed.multirun:
        raise BadConfig(
            "it takes one recipe and a number of seeds: experiment=<name> seeds=5, without -m and seed=",
            hint="python scripts/reproduce.py --list shows the recipes",
        )
    composed = composer.compose_or_explain(typed.overrides)
    if composed.problems or composed.config is None:
        raise invalid_run(composed.problems, typed.overrides)
    own = [word for word in typed.overrides if not word.startswith(("hydra.", "hydra/", "experiment="))]
    node = OmegaConf.to_container(composed.config)["published"]  # type: ignore[call-overload, index]
    published = recipes.published_of(node, own, recipe)
    name = recipes.card_name(recipe, published.overrides)
    folder = typed.value_of("hydra.sweep.dir") or f"outputs/reproduce/{name}"
    typed.overrides += [f"seed={','.join(map(str, range(seeds)))}", f"hydra.sweep.dir={folder}"]
    sweep = checked_sweep(typed, composer)
    if len(sweep.jobs) != seeds:
        what = f"{counted(len(sweep.jobs), 'run')} for {counted(seeds, 'seed')}: a key has a list of values"
        raise BadConfig(what, hint="give one value, or make a sweep: python train.py -m ...")
    changed = changes(composer, own, published, sweep.jobs[0].config)
    if sweep.jobs[0].config["check"]:
        told = f"published {published.text}; {seeds} runs in {folder}; changed: {', '.join(changed) or 'nothing'}"
        sys.stdout.write(f"{plan_of(sweep.checked[0], width=columns())}\n{told}\n")
        return 0
    code = run_sweep(sweep, composer)
    done = finished(sweep.jobs, Path(folder))
    if len(done) < seeds:
        sys.stdout.write(f"{len(done)} of {seeds} runs are done; the card is written when all are: type it again\n")
        return code or Preempted.code
    card = card_of(name, recipe, published, done, changed=changed, command=command)
    write(card, out or Path(folder))
    return 0 if card["verdict"] == "PASS" else 1


def num_seeds(text: str | None) -> int:
    if text is not None and not (text.isdecimal() and 1 <= int(text) <= 1000):
        raise BadConfig(f"seeds={text} must be a number from 1 on", hint="seeds=5")
    return int(text or 5)


def changes(composer: Composer, own: Sequence[str], published: Published, config: Mapping[str, Any]) -> list[str]:
    """What was typed beside the recipe and could change its result."""
    keys = {word: word.partition("=")[0].lstrip("+~") for word in recipes.beside(published, own)}
    return [
        word
        for word, key in keys.items()
        if key not in OF_THE_COMMAND and (key in composer.groups or changes_result(key, config))
    ]


def finished(jobs: Sequence[Job], folder: Path) -> list[tuple[int, Path]]:
    """Seed and folder of each of these jobs that is done."""
    entries = recognize(index.read(folder), jobs)
    found = [(job.config["seed"], folder / entry.folder) for job, entry in zip(jobs, entries, strict=True) if entry]
    return [(seed, run) for seed, run in found if read_status(run).state == "DONE"]


def card_of(
    name: str, recipe: str, published: Published, done: Sequence[tuple[int, Path]], **more: Any
) -> dict[str, Any]:
    runs, places = [], []
    for seed, folder in done:
        summary = read_summary(folder) or {}
        best, final = summary.get("best") or {}, summary.get("final") or {}
        value = final.get(published.metric) if published.of == "last" else best.get("value")
        if value is None or (published.of == "best" and best.get("metric") != published.metric):
            raise BadConfig(
                f"{folder}: the run's best is {best.get('metric')}, and {published.metric} is published",
                hint="leave trainer.eval_every and checkpoint.monitor as the recipe has them",
            )
        step = summary["steps"] if published.of == "last" else best["step"]
        seconds = summary.get("seconds") or 0.0
        runs.append({"seed": seed, "value": value, "step": step, "seconds": seconds, "folder": str(folder)})
        places.append(storage.read_json(folder / "environment.json") or {})
    code = {place_of_code(place) for place in places}
    return recipes.card_of(
        recipe,
        published,
        runs,
        name=name,
        hardware=sorted({hardware(place) for place in places}),
        versions=places[0].get("versions") or {},
        cost={
            "hours": sum(run["seconds"] for run in runs) / 3600,
            "seconds": median(run["seconds"] for run in runs),
        },
        code=", ".join(sorted(code)),
        date=datetime.date.today().isoformat(),
        **more,
    )


def hardware(place: Mapping[str, Any]) -> str:
    """What a run computed on, in words."""
    ranks, devices, cpu = place.get("ranks", 1), place.get("devices") or [], place.get("cpu") or {}
    if devices:
        return f"{ranks} x {devices[0]}"
    return f"{cpu.get('name')}, {ranks} x {place.get('threads')} threads of {cpu.get('cores')} cores"


def place_of_code(place: Mapping[str, Any]) -> str:
    git = place.get("git") or {}
    changed = " with changes" if git.get("dirty") else ""
    return f"commit {git['commit'][:12]}{changed}" if git.get("commit") else "of no known commit"


def write(card: Mapping[str, Any], folder: Path) -> None:
    storage.make_folder(folder)
    path = folder / f"{card['name']}.md"
    storage.write_whole(path, recipes.as_markdown(card).encode())
    storage.write_whole(path.with_suffix(".json"), (storage.to_json(card, indent=1) + "\n").encode())
    for head, text in recipes.rows_of(card)[1:5]:
        sys.stdout.write(f"{head:<10} {text}\n")
    sys.stdout.write(f"{path} and .json: {card['verdict']}\n")
