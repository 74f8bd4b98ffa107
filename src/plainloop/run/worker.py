"""One rank of a run: what `launch` starts, with the folder that the ranks share as its only argument."""

from __future__ import annotations

import faulthandler
import json
import logging
import logging.config
import os
import signal
import sys
from pathlib import Path
from typing import Any

from plainloop.distributed import failures, ranks
from plainloop.errors import Preempted, RunError
from plainloop.system import storage
from plainloop.system.processes import end_with_parent, open_screens

INTERRUPTED = 130  # as shells count it: 128 + SIGINT


def main(shared: Path) -> None:
    """Exits with the run's code. How the run ended is in the shared folder, where the parent reads it."""
    open_screens()
    job = json.loads((shared / "job.json").read_text())
    end_with_parent(job["parent"])
    sys.argv[:] = job["argv"]
    code = RunError.code
    with (shared / f"rank{ranks.rank()}.stack").open("w") as stack:
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
        try:
            with failures.recording(shared, rank=ranks.rank()):
                code = work(job, shared)
        except RunError as error:
            code = error.code
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # without cleaning up: backends and threads of libraries may wait for ranks that are gone


def work(job: dict[str, Any], shared: Path) -> int:
    """Trains; writes how the run ended for this rank. If a rank ends without writing this, it was killed."""
    from plainloop.run.run import run

    def end(**values: Any) -> None:
        storage.write_json(shared / f"rank{ranks.rank()}.json", values)

    if ranks.rank() == 0 and job["logging"]:
        logging.config.dictConfig(job["logging"])
    try:
        summary = run(job["config"], Path(job["folder"]))
    except Preempted as stop:
        end(ending="preempted", step=stop.step, folder=str(stop.folder))
        return stop.code
    except KeyboardInterrupt:
        end(ending="interrupted")
        return INTERRUPTED
    except BaseException:
        end(ending="failed")
        raise
    end(ending="done", summary=summary)
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
