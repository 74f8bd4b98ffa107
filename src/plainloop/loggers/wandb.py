"""Weights & Biases: one run there for each run directory, however often it is stopped and resumed."""

from __future__ import annotations

import json
import logging
import netrc
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from plainloop.errors import BadConfig
from plainloop.loggers.jsonl import read_rows
from plainloop.loggers.overrides import sweep_of, varied_overrides
from plainloop.loggers.wandb_file import newest_step
from plainloop.system import storage
from plainloop.system.secrets import redact_tree
from plainloop.system.signals import signals_blocked

log = logging.getLogger("plainloop")

NOT_IN_PROJECTS = "/\\#?%:"  # wandb's own list
MOST_NAME = 128  # characters
NETWORK_TIMEOUT_S = 30.0  # then the run ends and says how to go offline, instead of holding its GPUs

# What wandb collects by itself may hold secrets: command line, git remote, printed lines, code.
KEEP_OUT: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
}


class Wandb:
    """Sends rows, config and summary to a run whose id is kept in the run directory.

    Rows that wandb has from an earlier attempt are not sent twice, and those that it lost are sent from metrics.jsonl.
    If wandb's helper process ends, training goes on, and the next attempt sends what is missing.

    `mode=auto` is offline where there is no key (WANDB_API_KEY, WANDB_IDENTITY_TOKEN_FILE or netrc) or WANDB_MODE
    says so; the end of the run shows the command that sends it later. `entity=None` is the account's own. Without a
    `name` a job of a sweep is named by the overrides that not all its jobs have, and another run by its folder; without
    a `group`, the jobs of a sweep stand together, and so do runs of one `name` in the config.
    """

    def __init__(
        self,
        *,
        project: str = "plainloop",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        name: str | None = None,
        notes: str | None = None,
        mode: Literal["auto", "online", "offline"] = "auto",
    ) -> None:
        check_names(project, tags)
        self._names: dict[str, Any] = {"project": project, "entity": entity, "tags": list(tags), "notes": notes}
        self._name, self._group = name, group
        self._mode = mode
        self._run: Any = None
        self._newest = -1  # step of the newest row that wandb has

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Continues or begins the run. Raises BadConfig when wandb refuses it: no key, or no network."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its crash reports would contain our variables
        import wandb

        self._folder = folder
        mode = _mode() if self._mode == "auto" else self._mode
        try:
            with signals_blocked():  # its helper process inherits that, and survives until it has its own handlers
                self._run = wandb.init(
                    **self._names,
                    id=_run_id(folder),
                    resume="allow" if mode == "online" else None,
                    name=(self._name or " ".join(varied_overrides(folder)) or folder.name)[:MOST_NAME],
                    group=self._group or (sweep.name if (sweep := sweep_of(folder)) else str(config.get("name", ""))),
                    dir=folder,
                    config=redact_tree(dict(config)),
                    mode=mode,
                    settings=wandb.Settings(silent=mode == "offline", init_timeout=NETWORK_TIMEOUT_S, **KEEP_OUT),
                )
        except wandb.errors.Error as error:
            raise BadConfig(f"logger.wandb: {error}", hint="logger.wandb.mode=offline") from error
        written = [newest_step(path) for path in (folder / "wandb").glob("offline-run-*/run-*.wandb")]
        self._newest = max([*written, self._run.step - 1 if self._run.resumed else -1])
        for row in read_rows(folder / "metrics.jsonl"):
            if row["step"] <= step:
                self.log(int(row.pop("step")), row)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._run and step > self._newest:
            self._newest = step
            with self._going_on_without():
                self._run.log(dict(scalars), step=step, commit=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Waits until wandb has everything. Says where an offline run is and how to send it."""
        if self._run:
            if self._run.offline:
                offline = f"{shlex.quote(str(self._folder / 'wandb'))}/offline-run-*"
                log.info("wandb: offline, no key or no network; to send it, type: wandb sync %s", offline)
            with self._going_on_without():
                self._run.summary.update(redact_tree(dict(summary)))
                self._run.finish()
            self._run = None

    @contextmanager
    def _going_on_without(self) -> Iterator[None]:
        """Stops using wandb in this attempt when its helper process is gone: a SIGTERM to all of us ends it."""
        import wandb

        try:
            yield
        except (OSError, wandb.errors.Error) as error:
            self._run = None
            log.warning("wandb has ended (%s); rows go to metrics.jsonl, and to wandb when the run is resumed", error)


def check_names(project: str, tags: Sequence[str]) -> None:
    """Refuses before there is a run directory what wandb.init would refuse later. Raises ValueError."""
    if find_spec("wandb") is None:
        raise ValueError("the package wandb is not installed; install it with pip install wandb, or type logger=jsonl")
    if not 0 < len(project) <= 128 or set(project) & set(NOT_IN_PROJECTS):
        raise ValueError(
            f"logger.wandb.project={project!r} must have 1 to 128 characters, none of them {' '.join(NOT_IN_PROJECTS)}"
        )
    if not all(0 < len(tag) <= 64 for tag in tags):
        raise ValueError(f"logger.wandb.tags={list(tags)} must have 1 to 64 characters each")


def _run_id(folder: Path) -> str:
    """Made once, and kept beside what wandb writes."""
    path = folder / "wandb" / "id.json"
    if not path.exists():
        storage.make_folder(path.parent)
        storage.write_json(path, {"id": uuid.uuid4().hex[:12]})
    return str(json.loads(path.read_text())["id"])


def _mode() -> Literal["online", "offline"]:
    """Offline where WANDB_MODE says so, or where wandb would ask for a key."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online":
        return "offline"
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    address = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    hosts = {"api.wandb.ai", urlsplit(address).netloc}
    try:
        entries = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if hosts & entries.keys() else "offline"
