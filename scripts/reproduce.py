"""Trains a recipe with several seeds and compares with its published number: python scripts/reproduce.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # packages of your own beside train.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a clone runs without installation

from plainloop.commands.reproduce import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
