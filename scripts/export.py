"""Writes the model of a run as a file for other programs: python scripts/export.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a clone runs without installation

from plainloop.commands.export import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
