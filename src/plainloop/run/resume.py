"""Loads the newest checkpoint if there is one, and writes the run's config.yaml or compares it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import yaml

from plainloop.config import compare
from plainloop.config.durations import clock_of
from plainloop.config.parts import schedule_of
from plainloop.config.settings import with_later_keys
from plainloop.distributed import collectives
from plainloop.errors import BadConfig
from plainloop.run import data_files
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.config_file import read_config
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.rewind import go_back, require_step
from plainloop.run_dir.status import command_to_continue
from plainloop.system import storage

log = logging.getLogger("plainloop")


def take_up(config: Mapping[str, Any], checkpoints: Checkpoints, journal: Journal | None) -> dict[str, Any] | None:
    """The newest saved state that can be used, on every rank; None for a new run. Collective.

    Rank 0, which has the journal, looks, and writes config.yaml at the first start. Raises BadConfig when the config
    has changed so that it could change what is done, Unresumable when all checkpoints are bad, NoProgress after
    attempts that led nowhere.
    """
    found: str | None = None
    state: dict[str, Any] | None = None
    if journal:
        if (back := config.get("resume_step")) is not None:
            require_step(checkpoints, back)
            settle_config(config, journal, step=back)
            if discarded := go_back(journal.folder, checkpoints, back):
                journal.event("went_back", step=back, discarded=str(discarded))
        loaded = checkpoints.newest()
        checkpoints.sweep()
        step = loaded.step if loaded else 0
        settle_config(config, journal, step=step)
        journal.begin(step, clock_of(config).total_steps)
        if loaded:
            log.info("going on from step %d (%s)", loaded.step, loaded.path)
            found, state = loaded.path.name, loaded.state
    found = collectives.from_rank_0(found)
    if found is None or state is not None:
        return state
    return checkpoints.load(checkpoints.folder / found)


def settle_config(config: Mapping[str, Any], journal: Journal, *, step: int) -> None:
    """Writes config.yaml, or compares the config with the one that is there. Raises BadConfig."""
    path, kept = journal.folder / "config.yaml", plain(config) | {"resume_step": None}  # it is for this start only
    if "allow_changed" in kept["data"]:
        kept["data"]["allow_changed"] = False  # it is for this start only
    if os.path.lexists(path):
        saved = with_later_keys(read_config(journal.folder))
        now = kept | ({"init_from": saved.get("init_from")} if step else {})  # its weights are in the checkpoint
        found = compare.differences(saved, now)
        total = clock_of(config).total_steps
        if step > total:
            again = command_to_continue(journal.folder, plugins=config["plugins"])
            raise BadConfig(
                f"{step} steps are done already, and trainer.duration={config['trainer']['duration']} is {total}",
                hint=f"type a longer trainer.duration, or continue it as it was: {again}",
            )
        changed_files = data_files.changes(journal.folder, config)
        if not found and not any(changed_files.values()):
            return
        files = [pair for pair in found if pair.key in compare.FILE_FACTS]
        found = [pair for pair in found if pair not in files]
        require_same_thaw(saved, config, step=step)
        compare.check(found, config, step=step, schedules=lambda: (schedule_of(saved), schedule_of(config)))
        if files or any(changed_files.values()):
            accept_changed_files(config, journal, changed_files, step=step)
        if found:
            log.warning("goes on with another config than it was started with:\n%s", compare.table(found))
            journal.event("config_changed", step=step, changes=[vars(pair) for pair in found])
    else:
        data_files.write(journal.folder, config)
    storage.write_whole(path, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).encode())


def require_same_thaw(saved: Mapping[str, Any], config: Mapping[str, Any], *, step: int) -> None:
    """Raises BadConfig where freeze_until in percent is another step of a longer run, and what is done would differ."""
    text = config["trainer"]["freeze_until"]
    if text is None or saved["trainer"]["freeze_until"] != text:
        return  # what else differs, the comparison refuses
    before, now = (clock_of(each).steps(text) for each in (saved, config))
    if before != now and step > min(before, now):
        raise BadConfig(
            f"trainer.freeze_until={text} was step {before} and is step {now} of this longer run, and {step} are done",
            hint=f"type trainer.freeze_until={before}st in a new run from its weights: init_from=<run dir>",
        )


def accept_changed_files(
    config: Mapping[str, Any], journal: Journal, changed: Mapping[str, list[str]], *, step: int
) -> None:
    """Notes which files of the data differ. Raises BadConfig unless data.allow_changed=true."""
    text = data_files.as_text(changed)
    if not config["data"].get("allow_changed"):
        again = command_to_continue(journal.folder, plugins=config["plugins"])
        raise BadConfig(
            f"the data have other files than when this run was started:\n{text}",
            hint=f"put the files back, or go on with those that are there: {again} data.allow_changed=true",
        )
    log.warning("data.allow_changed=true: with other files it is no longer the run that was started:\n%s", text)
    journal.event("data_changed", step=step, **{kind: len(names) for kind, names in changed.items()})
    data_files.write(journal.folder, config)


def plain(node: Any) -> Any:
    """Mappings and lists only, as YAML gives them back."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list | tuple) else node
