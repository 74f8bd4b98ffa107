#!/usr/bin/env bash
# Trains on N devices of this machine: scripts/dist_train.sh N [overrides]
#   scripts/dist_train.sh 4 model=resnet50 data=image_folder data.root=/data/pets
#   CUDA_VISIBLE_DEVICES=4,5 scripts/dist_train.sh 2 ...      these two GPUs
#   CUDA_VISIBLE_DEVICES= scripts/dist_train.sh 2 ...         two processes on the CPU
# Ports are found free; PORT= and MASTER_PORT= are not needed. PYTHON= names another Python than the one in .venv or on the path.
set -euo pipefail
if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
    echo "how many devices? got \"${1:-}\"; type: scripts/dist_train.sh N [overrides], such as scripts/dist_train.sh 2 optimizer=sgd" >&2
    exit 64
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[[ -n "${PYTHON:-}" || -x "$python" ]] || python=python
exec "$python" "$root/train.py" "trainer.devices=$1" "${@:2}"
