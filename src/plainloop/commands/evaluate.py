"""Measures trained models: every metric of the task, also of each class, with 95 % intervals, and every sample.

run= takes a run directory, or a weights file together with model= and data= as train.py takes them. Several, separated
by commas, are compared on the same samples. Writes results.json and samples.csv into <run dir>/evaluation/, or --out.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainloop.commands.composed import answer, compose, parser_of, say, take_words
from plainloop.errors import BadConfig, printable
from plainloop.loggers.screen import counting
from plainloop.run_dir.status import quote_for_hydra

if TYPE_CHECKING:
    from plainloop.contracts import Data
    from plainloop.run.trained.measure import Measured
    from plainloop.run.trained.open import Trained

EXAMPLES = (
    "run=outputs/train/2026-01-31_12-00-00-000000",
    "run=<run dir> split=test tta=flip data.root=/data/pets_new",
    "run=<run dir>,<another run dir> checkpoint=last --out outputs/compared",
    "run=resnet18.safetensors model=resnet18 data=image_folder data.root=/data/pets",
)
SPLITS = ("val", "test", "train", "all")
OF_A_RUN = ("data", "task", "device", "threads", "trainer", "plugins")  # what an evaluation may change
WORDS = {
    "run": "a run directory, a checkpoint in one, or a weights file; several: run=a,b",
    "checkpoint": "best (the default), last, or a step",
    "split": "val (the default), test, train (the slice that training measures), or all",
    "tta": "averages views of each image: flip, multi_scale, crops, or several (flip,crops: ten crops)",
}


@dataclass(frozen=True)
class Asked:
    """What the words say."""

    runs: tuple[Path, ...]
    checkpoint: str | None
    split: str
    tta: tuple[str, ...]
    overrides: tuple[str, ...]  # everything else
    out: Path | None


@dataclass(frozen=True)
class Subject:
    """One model to measure."""

    name: str
    trained: Trained
    tta: tuple[str, ...] = ()
    passes: int = 1  # forward passes for an image


def main(arguments: Sequence[str]) -> int:
    """`python scripts/evaluate.py`; the exit code."""
    parser = parser_of("evaluate", __doc__ or "", EXAMPLES)
    for name, text in WORDS.items():
        parser.add_argument(f"{name}=", nargs="?", help=text)
    parser.add_argument("--out", type=Path, help="the folder for the results")
    options, overrides = parser.parse_known_args(arguments)
    words = [word for word in (vars(options)[f"{name}="] for name in WORDS) if word]
    return answer(lambda: evaluate(asked([*words, *overrides], options.out)))


def asked(words: list[str], out: Path | None) -> Asked:
    """Raises BadConfig for words that say nothing."""
    run, checkpoint, split, tta = (take_words(name, words) for name in WORDS)
    runs = tuple(path for text in run for path in paths_in(text))
    if not runs:
        paths = [word for word in words if Path(word).exists()]
        hint = f"type run={paths[0]}" if paths else "type run=<run dir>; --help has examples"
        raise BadConfig("run= is missing: it says what is evaluated", hint=hint)
    if split and split[-1] not in SPLITS:
        raise BadConfig(f"split={split[-1]} must be one of {', '.join(SPLITS)}", hint="type split=val")
    from plainloop.run.trained.views import kinds_of

    kinds = kinds_of(",".join(tta))
    return Asked(runs, checkpoint[-1] if checkpoint else None, split[-1] if split else "val", kinds, tuple(words), out)


def paths_in(text: str) -> list[Path]:
    """Paths separated by commas; a path that exists may hold a comma itself. `sweep/*` is all runs there.

    >>> paths_in("outputs/a,outputs/b")
    [PosixPath('outputs/a'), PosixPath('outputs/b')]
    """
    text = text.strip("'\"")
    parts = [text] if Path(text).exists() else text.strip("[]").split(",")
    paths = [Path(part.strip("'\" ")).expanduser() for part in parts if part.strip("'\" ")]
    found = []
    for path in paths:
        runs = sorted(path.parent.glob(path.name)) if "*" in path.name and not path.exists() else []
        found += [run for run in runs if (run / "config.yaml").is_file()] or [path]
    return found


def evaluate(asked: Asked) -> int:
    from plainloop.loop.evaluation.collect import Collector
    from plainloop.run.trained.measure import measure, paired, require_same_samples
    from plainloop.run.trained.write import write_measured
    from plainloop.run_dir.evaluation import write_evaluation
    from plainloop.system.storage import make_folder

    done: list[tuple[Subject, Measured]] = []
    for run in asked.runs:
        trained = opened(run, asked)
        data, splits = data_of(trained, asked.split)
        for subject in subjects(str(run), trained, asked):
            place = place_of(subject, asked)
            make_folder(place)  # so that nothing is computed that cannot be written
            collector = Collector(trained.task) if lacks_evaluation(subject, asked) else None
            with counting(f"evaluating {subject.name}") as tell:
                found = measure(subject.trained, data, splits, tell=tell, collector=collector)
            if collector and trained.step is not None:
                collected = collector.collected()
                write_evaluation(trained.folder, collected, split="val", step=trained.step, metrics=found.metrics)
            if done:
                require_same_samples(done[0][1], found, (done[0][0].name, subject.name))
            done.append((subject, found))
            about = {"split": "+".join(splits), "tta": list(subject.tta), "overrides": list(asked.overrides)}
            write_measured(place, subject.trained, found, about)
            if len(asked.runs) == 1 and not subject.tta:
                show(subject, found, asked, splits)
            say(f"written {place}/results.json and samples.csv")
    if len(done) > 1:
        differences = [paired(done[0][1], found) for _, found in done[1:]]
        show_comparison(done, differences, asked)
    return 0


def opened(run: Path, asked: Asked) -> Trained:
    """The model of a run, or of a weights file for which the overrides name model and data; torch set as by a run."""
    import torch

    from plainloop.config.check.check import check_evaluation
    from plainloop.run import backend
    from plainloop.run.run import num_threads
    from plainloop.run.trained import open as opening
    from plainloop.run.trained.folder import run_of_file, saved_config

    run, checkpoint = run_of_file(run, asked.checkpoint)
    is_run = not run.is_file()
    if is_run:
        saved = saved_config(run)
        only_what_an_evaluation_reads(asked.overrides)
    base = f"{'resume' if is_run else 'init_from'}={quote_for_hydra(str(run))}"
    whole_train = ["data.train_eval_samples=1000000000"] if asked.split == "all" else []
    config = check_evaluation(*compose([*asked.overrides, *whole_train, base]))
    typed = any(text.startswith("device=") for text in asked.overrides)
    config = opening.with_each_class(config if typed else opening.on_this_machine(config))
    switches = {key: config["trainer"][key] for key in ("deterministic", "cudnn_benchmark", "tf32")}
    backend.prepare(detect_anomaly=False, **switches)
    torch.set_num_threads(num_threads(config, run))
    if is_run:
        opening.require_same_classes(saved, config)
        return opening.open_run(run, checkpoint or "best", config=config)
    if checkpoint is not None:
        raise BadConfig(f"checkpoint={checkpoint} chooses one of a run, and {run} is a file", hint="leave it out")
    return opening.open_weights(run, config)


def only_what_an_evaluation_reads(overrides: Sequence[str]) -> None:
    """Raises BadConfig for keys of training: they would change nothing, without a word."""
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in OF_A_RUN:
            raise BadConfig(
                f"{text} changes nothing when a run is evaluated; expected {', '.join(WORDS)}, {', '.join(OF_A_RUN)}",
                hint="leave it out: the model is the run's. With run=<weights file> all keys of train.py may be given",
            )


def data_of(trained: Trained, split: str) -> tuple[Data, tuple[Any, ...]]:
    """The data without augmentation, and the splits that are measured."""
    from plainloop.config.durations import clock_of
    from plainloop.config.parts import build_data, make_part

    config = trained.config | {"augment": {}}
    data, _ = build_data(config, functools.partial(make_part, config, clock_of(config)))
    if split != "all":
        return data, (split,)
    return data, tuple(getattr(data, "images", None) or ("train", "val"))


def subjects(name: str, trained: Trained, asked: Asked) -> list[Subject]:
    """The model; with tta= the model with averaged views, after the model as it is unless runs are compared."""
    from plainloop.run.trained.views import is_trained_with_flips, views_of, with_views

    if not asked.tta:
        return [Subject(name, trained)]
    shown = f"{name} with tta={','.join(asked.tta)}" if len(asked.runs) == 1 else name
    averaged = Subject(shown, with_views(trained, asked.tta), asked.tta, len(views_of(asked.tta)))
    if "flip" in asked.tta and trained.folder.is_dir() and not is_trained_with_flips(trained.config):
        sys.stderr.write(
            f"warning: {printable(name)} was trained without mirror images: augment has no flip.\n"
            "  Where left and right mean something, as in digits and text, tta=flip makes the results worse\n"
        )
    return [Subject(name, trained), averaged] if len(asked.runs) == 1 else [averaged]


def lacks_evaluation(subject: Subject, asked: Asked) -> bool:
    """Whether this evaluation is what the run's report reads, and the run, of earlier code perhaps, has not kept it."""
    from plainloop.run_dir.evaluation import read_evaluation
    from plainloop.run_dir.status import read_status

    trained = subject.trained
    other = subject.tta or asked.overrides or asked.out or (asked.split, trained.checkpoint) != ("val", "best")
    if other or not trained.folder.is_dir() or read_status(trained.folder).state == "RUNNING":
        return False
    kept = read_evaluation(trained.folder)
    return kept is None or kept.step != trained.step


def place_of(subject: Subject, asked: Asked) -> Path:
    """The folder for the results: other results lie beside these, equal ones replace them."""
    name = "_".join([asked.split, subject.trained.checkpoint, *subject.tta])
    if asked.overrides:
        name += "_" + hashlib.sha256("\n".join(sorted(asked.overrides)).encode()).hexdigest()[:8]
    folder = subject.trained.folder
    if asked.out is None:
        return (folder if folder.is_dir() else Path("outputs")) / "evaluation" / name
    return asked.out / f"{folder.name}_{name}" if len(asked.runs) > 1 or asked.tta else asked.out


def show(subject: Subject, found: Measured, asked: Asked, splits: Sequence[Any]) -> None:
    from plainloop.report.measured import class_lines, confusion_lines, metric_lines
    from plainloop.run.trained.write import recorded

    trained, intervals = subject.trained, found.intervals
    say(f"run     {subject.name}: {trained.weights}")
    source = trained.config["data"]["_target_"].rpartition(".")[2]
    say(f"data    {source}, {' and '.join(splits)}: {len(found.rows):,} samples in {found.seconds:.1f} s")
    for why in found.skipped[:3]:
        say(f"        left out: {why}")
    for line in metric_lines(found.metrics, intervals):
        say(f"  {line}")
    for line in class_lines(found.metrics, intervals):
        say(line)
    if found.confusion is not None:
        for line in confusion_lines(found.confusion.tolist(), trained.class_names, of=found.counted):
            say(line)
    before = recorded(trained, splits[0]) if len(splits) == 1 and trained.folder.is_dir() and not asked.tta else {}
    if before and not asked.overrides:
        other = [name for name, value in before.items() if found.metrics.get(name) != value and value == value]
        told = ", ".join(f"{name} {before[name]!r} then, {found.metrics.get(name)!r} now" for name in other[:3])
        say("the run itself measured " + (f"otherwise: {told}" if other else "the same, to the last digit"))


def show_comparison(done: Sequence[tuple[Subject, Measured]], differences: Sequence[Any], asked: Asked) -> None:
    from plainloop.report.measured import comparison_lines
    from plainloop.run.trained.write import write_comparison

    names = [subject.name for subject, _ in done]
    shown = [f"{subject.name}: {subject.trained.weights}" for subject, _ in done]
    for line in comparison_lines([found.metrics for _, found in done], shown, differences):
        say(line)
    (_, plain), (last, averaged) = done[0], done[-1]
    if asked.tta and len(asked.runs) == 1:
        cost = f"{last.passes} x the forward passes, {averaged.seconds:.1f} s instead of {plain.seconds:.1f} s"
        say(f"cost of tta={','.join(asked.tta)}: {cost}")
    folder = asked.out or (place_of(last, asked) if len(asked.runs) == 1 else Path("outputs/evaluation"))
    write_comparison(folder / "comparison.json", names, [found for _, found in done], differences)
    say(f"written {folder / 'comparison.json'}")
