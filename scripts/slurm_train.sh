#!/usr/bin/env bash
# Trains one recipe on Slurm, with MMOCR's words:
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS="..."] scripts/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [overrides...]
#
# CONFIG is an option of conf/experiment (its path or a suffix do no harm), or `none`. The run lies in WORK_DIR/0; the
# same command continues it. The sweep way: python train.py -m hydra/launcher=submitit_slurm ... (docs/slurm.md)
set -euo pipefail

if (($# < 4)); then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 64
fi
partition=$1 job_name=$2 config=$3 work_dir=$4
shift 4

gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
((per_node <= gpus)) || per_node=$gpus
if ((gpus % per_node)); then
    echo "GPUS=$gpus does not divide by GPUS_PER_NODE=$per_node; type GPUS=$((gpus / per_node * per_node))" >&2
    exit 64
fi
experiment=$(basename "$config")
experiment=${experiment%.*}
[[ $experiment == none ]] || set -- "experiment=$experiment" "$@"
quoted() { # for Hydra, whatever signs it holds
    local text=${1//\\/\\\\}
    echo "'${text//\'/\\\'}'"
}
srun_args=()
read -ra words <<<"${SRUN_ARGS:-}"
for word in "${words[@]}"; do srun_args+=("$(quoted "$word")"); done

exec "${PYTHON:-python}" "$(dirname "$0")/../train.py" -m hydra/launcher=submitit_slurm \
    "hydra.launcher.partition=$(quoted "$partition")" \
    "hydra.launcher.name=$(quoted "$job_name")" \
    "hydra.launcher.nodes=$((gpus / per_node))" \
    "hydra.launcher.gpus_per_node=$per_node" \
    "hydra.launcher.tasks_per_node=$per_node" \
    "hydra.launcher.cpus_per_task=${CPUS_PER_TASK:-5}" \
    "hydra.launcher.srun_args=[$(IFS=,; echo "${srun_args[*]}")]" \
    "hydra.sweep.dir=$(quoted "$work_dir")" "$@"
