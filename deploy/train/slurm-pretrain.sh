#!/usr/bin/env bash
# Pre-training on Slurm, the arguments are those of `ling pretrain`; a folder that all nodes see:
#   sbatch deploy/train/slurm-pretrain.sh ling-mini-8k --out /shared/runs/mini-8k \
#     --data.prefix /shared/data/train_text_document --parallel.dp_replicate 2 --optim.name adamw
# The recipe's ranks are nodes × GPUs a node (docs/guides/cluster.md). Before its time limit
# the run is saved and the job goes back into the queue, until the run is done.
#SBATCH --job-name=ling-pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Five minutes before the limit, to this script alone.
#SBATCH --signal=B:USR1@300
set -euo pipefail

# Without GPUs: RANKS_PER_NODE=2 sbatch --gpus-per-node=0 …
ranks=${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:?set RANKS_PER_NODE where a node has no GPUs}}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Ports of jobs that share a node differ.
port=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / ranks > 0 ? SLURM_CPUS_PER_TASK / ranks : 1))
# How long torchrun lets its ranks save before it kills them (30 s before torch 2.13).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}

stopping=
# shellcheck disable=SC2329 # the trap calls it
stop() {
  stopping=1
  # Not to srun, which would kill the step after a few seconds.
  scancel --signal=TERM "$SLURM_JOB_ID.0"
}
trap stop USR1

srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc-per-node "$ranks" \
  --max-restarts 3 \
  --rdzv-backend c10d \
  --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  --rdzv-endpoint "${nodes[0]}:$port" \
  -m ling pretrain "$@" &
step=$!
code=0
wait "$step" || code=$?
if [ -n "$stopping" ]; then
  # A signal ends `wait`, not the step: it saves now.
  code=0
  wait "$step" || code=$?
  if [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
