#!/bin/bash
#SBATCH --job-name=shoes
#SBATCH --comment=lookalike
#SBATCH --output=shoes-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --mem=524288M
#SBATCH --gpus-per-node=h100:8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --partition=gpu
#SBATCH --qos=high
export NCCL_DEBUG=WARN
source venv/bin/activate
set -u
first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
# Its address: a node's name need not be that of a host.
LOOKALIKE_HEAD="$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')"
LOOKALIKE_PORT=$((20000 + SLURM_JOB_ID % 10000))
export LOOKALIKE_HEAD LOOKALIKE_PORT
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
exec python -m torch.distributed.run --nnodes="$SLURM_NNODES" --node-rank="$SLURM_NODEID" --master-addr="$LOOKALIKE_HEAD" --master-port="$LOOKALIKE_PORT" --nproc-per-node=8 -m lookalike train "$folder"/config.yaml optim.lr=0.1 --resume
LOOKALIKE_START
stopping=
stop() { stopping=1; scancel --signal=TERM "$SLURM_JOB_ID"; }
trap stop USR1
srun --kill-on-bad-exit=1 --cpus-per-task=64 bash -c "$start" &
steps=$!
wait "$steps"; code=$?
# A signal ends wait, not the steps.
while kill -0 "$steps" 2>/dev/null; do wait "$steps"; code=$?; done
[ "$code" -eq 0 ] && exit 0
[ -n "$stopping" ] && scontrol requeue "$SLURM_JOB_ID" && exit "$code"
[ -z "$stopping" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
