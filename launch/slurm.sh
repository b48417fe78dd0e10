#!/usr/bin/env bash
# Runs mfl_jax under Slurm: one run on several nodes, or an array of runs. Submits a job, or runs inside an allocation (salloc).
#   launch/slurm.sh --nodes=2 --gpus=8 --time=12:00:00 -- --config=configs/proposed.py --config.compute=bfloat16 --workdir=runs/proposed
#   launch/slurm.sh --seeds=0-9 --time=4:00:00 -- --config=configs/proposed.py --config.compute=bfloat16 --workdir=runs/seeds
#   launch/slurm.sh --list=FILE --time=4:00:00 -- --config=configs/proposed.py --config.compute=bfloat16 --workdir=runs/alphas
#
#   --nodes=N          nodes per run, with one task each (default 1)
#   --gpus=N           GPUs per node, all used by its task (default 1); 0 runs on the CPU
#   --cpus=N           cores per task (default: Slurm's, which is one)
#   --time=HH:MM:SS    time limit; a run that reaches it is queued again and resumes
#   --seeds=0-9        submit an array with one run per seed; each writes to seed<N> in the work directory
#   --list=FILE        submit an array with one run per line of flags (shell quoting); each writes to job<N>, counted from 0
#   --at_once=N        maximum number of runs of an array at the same time
#   --sbatch=OPTION    pass another option to sbatch, e.g. --sbatch=--partition=gpu; may be repeated
#   --port=N           TCP port of the coordinator on the first node (default: 61440 + job ID modulo 4096)
#   --retries=N        maximum number of times a job is queued again (default 20)
#   --module=MODULE    mfl_jax.main (default) or mfl_jax.experiment
#   --dry_run          print the job or the command without submitting or running it
#
# Flags of the run go after --. The checkout and the work directory must be on a file system that all nodes share.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/command_lines.sh"

nodes=1 gpus=1 cpus='' time='' seeds='' list='' at_once='' port='' retries=20 module=mfl_jax.main dry_run='' options=()
while [ $# -gt 0 ]; do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --cpus=*) cpus=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --list=*) list=${1#*=} ;;
    --at_once=*) at_once=${1#*=} ;;
    --sbatch=*) options+=("${1#*=}") ;;
    --port=*) port=${1#*=} ;;
    --retries=*) retries=${1#*=} ;;
    --module=*) module=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) print_help "$0"; exit ;;
    --) shift; break ;;
    *) fail "unknown flag $1 (--help lists the flags of launch/slurm.sh); flags of the run go after --, options of sbatch in --sbatch=" ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "nothing to run: put the flags of $module after --, e.g. -- --config=configs/proposed.py"
for value in "nodes=$nodes" "gpus=$gpus" "retries=$retries" ${cpus:+"cpus=$cpus"} ${port:+"port=$port"} ${at_once:+"at_once=$at_once"}; do
  case ${value#*=} in '' | *[!0-9]*) fail "--$value: must be a number" ;; esac
done
case $seeds in *[!0-9,-]*) fail "--seeds=$seeds: must be a range such as 0-9 or a list such as 1,2,5" ;; esac
extras='[cuda]'
[ "$gpus" -gt 0 ] || extras=''

# Runs the command of this job on all its nodes.
run_in_job() {
  local status=0 cancelled='' node_count=${SLURM_JOB_NUM_NODES:-1} first_node command
  # When one task ends, the others get 90 s to write a checkpoint and to notice that a peer is lost.
  command=(srun "--nodes=$node_count" "--ntasks=$node_count" --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=90 --label)
  # srun does not inherit this option from the job.
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || command+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
  if [ "$node_count" -gt 1 ]; then
    first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
    # Above the ephemeral ports of Linux, and different for jobs that share a node.
    port=${port:-$((61440 + SLURM_JOB_ID % 4096))}
    say "coordinator: $first_node:$port; firewalls must allow TCP between the nodes on this port"
    # shellcheck disable=SC2016  # expanded by the shell of each task
    command+=(bash -c 'export JAX_NUM_PROCESSES=$SLURM_NTASKS JAX_PROCESS_ID=$SLURM_PROCID JAX_COORDINATOR_ADDRESS=$0; exec "$@"'
      "$first_node:$port")
  fi
  if [ -n "$dry_run" ]; then
    quote_command "${command[@]}" "${MFL_JAX_VENV:-$(dirname "$here")/.venv}/bin/python" -m "$module" "$@"
    return
  fi
  . "$here/environment.sh" "$extras"
  # scancel signals this shell too; the time limit (--signal) signals only the tasks.
  trap cancelled=1 TERM
  "${command[@]}" "$python" -m "$module" "$@" || status=$?
  if [ "$status" -eq 130 ] && [ -z "$cancelled" ] && [ -n "${MFL_JAX_REQUEUE:-}" ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$retries" ]; then
      say "stopped with a checkpoint; queued again ($((${SLURM_RESTART_COUNT:-0} + 1)) of $retries)"
      scontrol requeue "$SLURM_JOB_ID"
    else
      say "error: stopped with a checkpoint after --retries=$retries restarts; submit it again to resume"
    fi
  fi
  return "$status"
}

# Prints the job script for sbatch.
print_job() {
  local option line number word set_flags workdir='' previous='' array='' flags=("$@")
  for word in "$@"; do
    case $word in --workdir=*) workdir=${word#*=} ;; esac
    case $previous in --workdir) workdir=$word ;; esac
    previous=$word
  done
  if [ -n "$seeds$list" ] && [ -z "$workdir" ]; then
    fail "${seeds:+--seeds}${list:+--list} needs --workdir=DIR after --: each run gets a folder in it"
  fi
  [ -z "$seeds" ] || [ -z "$list" ] || fail "--seeds and --list cannot be combined: write --config.seed=N into the list"
  echo '#!/bin/bash'
  echo '#SBATCH --job-name=mfl_jax'
  echo "#SBATCH --nodes=$nodes"
  echo '#SBATCH --ntasks-per-node=1'
  [ "$gpus" -eq 0 ] || echo "#SBATCH --gpus-per-node=$gpus"
  [ -z "$cpus" ] || echo "#SBATCH --cpus-per-task=$cpus"
  [ -z "$time" ] || echo "#SBATCH --time=$time"
  # Signals the tasks a minute before the time limit, which is enough for a checkpoint.
  echo '#SBATCH --signal=TERM@60'
  echo '#SBATCH --requeue'
  echo '#SBATCH --open-mode=append'
  if [ -n "$list" ]; then
    set_flags=''
    number=0
    while IFS= read -r line || [ -n "$line" ]; do
      case $line in '' | '#'*) continue ;; esac
      flags=()
      # xargs handles quotes as a shell does but never runs anything.
      while IFS= read -r word; do flags+=("$word"); done < <(printf '%s\n' "$line" | xargs -n 1 printf '%s\n')
      set_flags="$set_flags  $number) set -- $(quote_command "$@" "${flags[@]}" "--workdir=$workdir/job$number") ;;
"
      number=$((number + 1))
    done <"$list"
    [ "$number" -gt 0 ] || fail "--list=$list: the file holds no flags"
    array=0-$((number - 1))
    set_flags="case \$SLURM_ARRAY_TASK_ID in
${set_flags}esac"
  elif [ -n "$seeds" ]; then
    array=$seeds
    # shellcheck disable=SC2016  # expanded by the job
    set_flags="set -- $(quote_command "$@") \"--config.seed=\$SLURM_ARRAY_TASK_ID\" $(quote_command "--workdir=$workdir/seed")\"\$SLURM_ARRAY_TASK_ID\""
  else
    set_flags="set -- $(quote_command "$@")"
  fi
  [ -z "$array" ] || echo "#SBATCH --array=$array${at_once:+%$at_once}"
  # These come last: sbatch uses the last value of a repeated option.
  for option in ${options[@]+"${options[@]}"}; do
    echo "#SBATCH $option"
  done
  printf '%s\n' "$set_flags"
  echo "MFL_JAX_REQUEUE=1 exec $(quote_command "$here/slurm.sh" "--gpus=$gpus" ${port:+"--port=$port"} "--retries=$retries" "--module=$module") -- \"\$@\""
}

if [ -n "${SLURM_JOB_ID:-}" ]; then
  [ -z "$seeds$list" ] || fail "${seeds:+--seeds}${list:+--list} submits jobs and must be called outside an allocation (SLURM_JOB_ID is set)"
  run_in_job "$@"
  exit
fi
[ -z "$list" ] || [ -r "$list" ] || fail "--list=$list: cannot read the file"
job_script=$(print_job "$@")
if [ -n "$dry_run" ]; then
  printf '%s\n' "sbatch <<'END'" "$job_script" END
  exit
fi
command -v sbatch >/dev/null || fail "sbatch not found: call launch/slurm.sh on a login node"
# Install before submitting: the jobs of an array would all install into the same folder at once.
(. "$here/environment.sh" "$extras")
printf '%s\n' "$job_script" | sbatch
