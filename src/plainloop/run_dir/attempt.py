"""One attempt at a run: who trains here, since when, and how it ended, on disk whatever happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plainloop.errors import BadConfig, Preempted, RunError
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.status import command_to_continue


@contextmanager
def attempt(folder: Path, plugins: Sequence[str] = ()) -> Iterator[Journal]:
    """Holds the run's lock for the time of the block and writes down how it ended. Rank 0 only.

    `plugins` are said anew at each start, and so in the command that continues the run.

    Raises Locked when another process trains in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, plugins=plugins)
    go_on = command_to_continue(folder, plugins=plugins)
    with journal.hold():
        try:
            yield journal
        except Preempted as stop:
            journal.end("PREEMPTED", reason=stop.reason, hint=go_on, exit_code=stop.code)
            raise
        except RunError as error:
            if isinstance(error, BadConfig) and journal.withdraw():
                raise
            hint = error.hint or str(error).splitlines()[0]
            journal.end("FAILED", reason=error.reason, message=str(error), hint=hint, exit_code=error.code)
            raise
        except KeyboardInterrupt:
            journal.end("CANCELLED", reason="interrupted", hint=go_on, exit_code=130)
            raise
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
            journal.end("FAILED", reason="internal", message=said, hint=said, exit_code=RunError.code)
            raise
        journal.end("DONE", reason="", hint="", exit_code=0)
