#!/bin/bash
# A job on machines that Slurm gives: a Ray on them for as long as it lasts, and no longer.
#
#   sbatch pipelines/deploy/slurm.sh pipelines/jobs/demo.yaml --out /shared/runs
#
# 120 seconds before the time is up, steps are told to write their checkpoints, and the job is put
# back into the queue; it goes on from the store.  Ask for what a step needs: each step runs on one
# machine.
#SBATCH --job-name=polymode
#SBATCH --nodes=2
#SBATCH --exclusive             # at its end `ray symmetric-run` ends every Ray of ours on a machine
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Written for Ray 2.60.0.
PORT=${POLYMODE_PORT:-6379}
MACHINES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${MACHINES%%$'\n'*}

# A fresh token on a disk that all machines see, readable by this user alone.
SECRETS="$HOME/.polymode/slurm-$SLURM_JOB_ID"
umask 077
mkdir -p "$SECRETS"
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > "$SECRETS/token"
trap 'rm -rf "$SECRETS"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$SECRETS/token"
export RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# Slurm sends TERM to this script alone (B:).  Handed on, each step writes a checkpoint and ends.
stopped=0 RUN=
trap 'stopped=1; [ -z "$RUN" ] || kill -TERM "$RUN" 2>/dev/null || true' TERM

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 \
    ray symmetric-run --address "$HEAD:$PORT" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "${SLURM_CPUS_PER_TASK:-1}" -- \
    polymode run --address auto "$@" &
RUN=$!
[ "$stopped" = 0 ] || kill -TERM "$RUN"

status=0
wait "$RUN" || status=$?
if [ "$stopped" = 1 ]; then
    wait "$RUN" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
