"""Finds the largest batch that fits: python scripts/find_batch_size.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a clone runs without installation

from plainloop.commands.find_batch_size import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
