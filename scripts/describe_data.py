"""Tells what is in a data set and what is wrong with it: python scripts/describe_data.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # your own packages lie beside train.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a clone runs without installation

from plainloop.commands.describe_data import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
