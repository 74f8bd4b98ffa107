"""Finds how many workers the data need: python scripts/find_workers.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a clone runs without installation

from plainloop.commands.find_workers import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
