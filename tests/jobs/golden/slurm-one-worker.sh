#!/bin/bash
#SBATCH --job-name=shoes
#SBATCH --comment=lookalike
#SBATCH --output=shoes-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
set -u
IFS= read -r -d '' start <<'LOOKALIKE_START'
set -eu
folder="$(mktemp -d)"
cat > "$folder"/config.yaml <<'LOOKALIKE_FILE'
# Shoes: two lists in object storage.
data:
  train: oss://shop/train.txt
  val: oss://shop/val.txt
run:
  output: oss://shop/runs/shoes
LOOKALIKE_FILE
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=290
exec python -m lookalike train "$folder"/config.yaml --resume
LOOKALIKE_START
stopping=
stop() { stopping=1; scancel --signal=TERM "$SLURM_JOB_ID"; }
trap stop USR1
srun --kill-on-bad-exit=1 --container-image=lookalike:0.1 --container-mounts=/data:/data:ro bash -c "$start" &
steps=$!
wait "$steps"; code=$?
# A signal ends wait, not the steps.
while kill -0 "$steps" 2>/dev/null; do wait "$steps"; code=$?; done
[ "$code" -eq 0 ] && exit 0
[ -n "$stopping" ] && scontrol requeue "$SLURM_JOB_ID" && exit "$code"
[ -z "$stopping" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 1 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
