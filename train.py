"""Trains one run, or a sweep of them, as composed from conf/.

    python train.py optimizer=sgd scheduler=cosine_warmup
    python train.py -m optimizer=sgd,adamw seed=0,1,2
    python train.py resume=auto

`python train.py --help` lists the groups and the keys.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))  # a clone runs as it is, installed or not

try:
    from plainloop.commands.train import main
except ModuleNotFoundError as error:
    if str(error.name).startswith("plainloop"):
        raise
    sys.exit(f"{sys.executable} has no {error.name}: type `make setup` once, and `. .venv/bin/activate` in each shell")
except KeyboardInterrupt:
    sys.exit(130)  # Ctrl-C while Python loads; as shells count it: 128 + SIGINT

if __name__ == "__main__":
    main(ROOT / "conf")
