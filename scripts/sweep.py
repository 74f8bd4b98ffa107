"""Looks at a sweep, collects its results, and starts again what failed: python scripts/sweep.py --help"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # a clone runs as it is, installed or not

from plainloop.commands.sweep import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], train=Path(sys.argv[0]).parent.parent / "train.py"))
