"""Shows what happened in one step of a run, and writes nothing: python scripts/replay_step.py <run dir> <step>"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # a clone runs as it is, installed or not


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the run directory")
    parser.add_argument("step", type=int, help="the step, as the run's message names it")
    parser.add_argument("--plugins", nargs="*", default=[], help="your own packages that the run's config names")
    told = parser.parse_args()

    from plainloop.commands.replay import replay
    from plainloop.errors import RunError

    try:
        findings = replay(told.folder, told.step, plugins=told.plugins)
    except RunError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    for line in findings.lines():
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
