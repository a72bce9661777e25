#!/usr/bin/env bash
# Token files by a Slurm array, one task a shard, then the join that waits for all of them:
#   deploy/train/slurm-data.sh 32 /shared/data --tokenizer /shared/tokenizer /shared/text
# The arguments behind the folder are those of `ling data prepare`. A task that fails or is preempted
# continues with what is left when the same command is given again; finished data stays as it is. The
# prefix for `ling pretrain` is then /shared/data/train_text_document. CPUS_PER_TASK, MEMORY and TIME_LIMIT
# are those of a task.
set -euo pipefail

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then # in the array; it was submitted below
  shards=$1 out=$2
  exec ling data prepare "${@:3}" --out "$out" --workers "$SLURM_CPUS_PER_TASK" \
    --shard "$SLURM_ARRAY_TASK_ID/$shards"
fi

shards=${1:?number of shards} out=${2:?folder that all nodes see}
limits=(--cpus-per-task="${CPUS_PER_TASK:-16}" --mem="${MEMORY:-32G}" --time="${TIME_LIMIT:-12:00:00}")
array=$(sbatch --parsable --job-name=ling-data --array="0-$((shards - 1))" --requeue \
  "${limits[@]}" --output=%x-%A-%a.log "$0" "$@")
sbatch --parsable --job-name=ling-join --dependency="afterok:$array" --kill-on-invalid-dep=yes \
  "${limits[@]}" --output=%x-%j.log --wrap "ling data join $(printf %q "$out")"
