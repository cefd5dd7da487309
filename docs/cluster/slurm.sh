#!/usr/bin/env bash
#SBATCH --job-name=mkgformer
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
# Runs a pipeline on a Ray cluster inside this allocation: sbatch slurm.sh --pipelines ... --env ...
# Submit it in the project's folder, which lies on storage that all nodes share.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
source .venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=true OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${hosts[0]}"
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')"
port=$((20000 + SLURM_JOB_ID % 20000))
# Ray's sockets have short paths; a folder of this job's own keeps it apart from others.
start=(--block --disable-usage-stats --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$port" --temp-dir="/tmp/ray_$SLURM_JOB_ID" "${start[@]}" &
export RAY_ADDRESS="$address:$port"
nodes() { python -c 'import ray; ray.init(logging_level=40); print(len(ray.nodes()))' 2>/dev/null || echo 0; }
until [ "$(nodes)" -ge 1 ]; do sleep 2; done
if ((${#hosts[@]} > 1)); then
    srun --nodes=$((${#hosts[@]} - 1)) --ntasks-per-node=1 --overlap --exclude="$head" \
        ray start --address="$RAY_ADDRESS" "${start[@]}" &
fi
until [ "$(nodes)" -ge "${#hosts[@]}" ]; do sleep 2; done

# Kedro takes --params once: what the user gives goes along.
arguments=() params=launch.engine=ray
while (($#)); do
    case "$1" in
    --params) params+=",${2:?--params needs values}" && shift ;;
    --params=*) params+=",${1#*=}" ;;
    *) arguments+=("$1") ;;
    esac
    shift
done
kedro run "${arguments[@]}" --params "$params" &
run=$!
trap 'kill -TERM "$run"' TERM  # Slurm says so two minutes before time is up; what is done is kept
code=0
wait "$run" || code=$?
# A signal ended that, and not the run, which is to leave its locks.
while kill -0 "$run" 2>/dev/null; do
    code=0
    wait "$run" || code=$?
done
exit "$code"
