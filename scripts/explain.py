"""Tells where a value of the config comes from: python scripts/explain.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a clone runs without installation

from plainloop.commands.explain import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
