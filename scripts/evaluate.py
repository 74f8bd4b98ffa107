"""Measures trained models, compares them, and shows single samples: python scripts/evaluate.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # your own packages lie beside train.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a clone runs without installation

from plainloop.commands.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
