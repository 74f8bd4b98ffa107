"""One rank of a run: what `launch` starts, with the folder where the ranks meet as its only argument."""

from __future__ import annotations

import ctypes
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

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
INTERRUPTED = 130  # as shells count it


def main(meeting: Path) -> None:
    """Leaves with the run's exit code. What there is to say about the end is in the folder: the parent says it."""
    job = json.loads((meeting / "job.json").read_text())
    die_with(job["parent"])
    sys.argv[:] = job["argv"]
    code = RunError.code
    with (meeting / f"rank{ranks.rank()}.stack").open("w") as stack:
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
        try:
            with failures.noted(meeting, rank=ranks.rank()):
                code = work(job, meeting)
        except RunError as error:
            code = error.code
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # at once: backends and threads of libraries may wait for ranks that are gone


def work(job: dict[str, Any], meeting: Path) -> int:
    from plainloop.run.run import run

    if ranks.rank() == 0 and job["logging"]:
        logging.config.dictConfig(job["logging"])
    try:
        summary = run(job["config"], Path(job["folder"]))
    except Preempted as stop:
        end(meeting, ending="preempted", step=stop.step, folder=str(stop.folder))
        return stop.code
    except KeyboardInterrupt:
        end(meeting, ending="interrupted")
        return INTERRUPTED
    except failures.RankFailed as error:
        end(meeting, ending="failed")
        return error.code
    except BaseException:
        end(meeting, ending="failed")
        raise
    end(meeting, ending="done", summary=summary)
    return 0


def end(meeting: Path, **words: Any) -> None:
    """Whoever leaves without this has died."""
    storage.write_json(meeting / f"rank{ranks.rank()}.json", words)


def die_with(parent: int) -> None:
    """However the parent dies, this process does at once, and its data workers with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(RunError.code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
