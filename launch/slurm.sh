#!/usr/bin/env bash
# Runs mfl_jax under Slurm: one run over several nodes, or an array of runs. Submits a job; within an allocation (salloc), runs there.
#   launch/slurm.sh --nodes=2 --gpus=8 --time=12:00:00 -- --config=configs/proposed.py --workdir=runs/proposed
#   launch/slurm.sh --seeds=0-9 --time=4:00:00 -- --config=configs/proposed.py --workdir=runs/seeds
#   launch/slurm.sh --list=FILE --time=4:00:00 -- --config=configs/proposed.py --workdir=runs/alphas
#
#   --nodes=N          nodes of a run, with a task each (1)
#   --gpus=N           GPUs of a node, all of them for its task (1); 0 for none
#   --cpus=N           cores of a task; Slurm's default is one
#   --time=HH:MM:SS    time limit; a run that it cuts off is queued again and goes on
#   --seeds=0-9        an array: a run a seed, in seed<N> of the work directory
#   --list=FILE        an array: a run a line of flags (quoted as in a shell), in job<N> of the work directory, from 0
#   --at_once=N        how many runs of an array go on at once
#   --sbatch=OPTION    another option of sbatch, e.g. --sbatch=--partition=gpu; may be repeated
#   --port=N           TCP port of the coordinator on the first node; by default 61440 + the job's number modulo 4096
#   --retries=N        how often a job is queued again (20)
#   --module=MODULE    mfl_jax.main (the default) or mfl_jax.experiment
#   --dry_run          prints what would be submitted, or run
#
# The work directory must lie on a file system that all nodes share, as must the checkout.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/words.sh"

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
    --help) help_of "$0"; exit ;;
    --) shift; break ;;
    *) fail "$1 is no flag of launch/slurm.sh (--help lists them); flags of the run stand behind --, options of sbatch in --sbatch=" ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "nothing to run: put the flags of $module behind --, e.g. -- --config=configs/proposed.py"
for value in "nodes=$nodes" "gpus=$gpus" "retries=$retries" ${cpus:+"cpus=$cpus"} ${port:+"port=$port"} ${at_once:+"at_once=$at_once"}; do
  case ${value#*=} in '' | *[!0-9]*) fail "--$value is no number" ;; esac
done
case $seeds in *[!0-9,-]*) fail "--seeds=$seeds: a range such as 0-9, or a list such as 1,2,5" ;; esac
extras='[cuda]'
[ "$gpus" -gt 0 ] || extras=''

# The run of this job, over all its nodes.
within() {
  local status=0 cancelled='' count=${SLURM_JOB_NUM_NODES:-1} first command
  # A task that has ended leaves the others the time for their checkpoint, and to notice that a peer is lost.
  command=(srun "--nodes=$count" "--ntasks=$count" --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=90 --label)
  # srun does not take this over from the job by itself.
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || command+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
  if [ "$count" -gt 1 ]; then
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
    # Above the ports that Linux gives to clients, and another for each job that might share the node.
    port=${port:-$((61440 + SLURM_JOB_ID % 4096))}
    say "coordinator: $first:$port; a firewall must let TCP pass there between the nodes"
    # shellcheck disable=SC2016  # for the shell of each task
    command+=(bash -c 'export JAX_NUM_PROCESSES=$SLURM_NTASKS JAX_PROCESS_ID=$SLURM_PROCID JAX_COORDINATOR_ADDRESS=$0; exec "$@"'
      "$first:$port")
  fi
  if [ -n "$dry_run" ]; then
    quoted "${command[@]}" "${MFL_JAX_VENV:-$(dirname "$here")/.venv}/bin/python" -m "$module" "$@"
    return
  fi
  . "$here/environment.sh" "$extras"
  # scancel signals this shell too; the time limit (--signal) signals the tasks alone.
  trap cancelled=1 TERM
  "${command[@]}" "$python" -m "$module" "$@" || status=$?
  if [ "$status" -eq 130 ] && [ -z "$cancelled" ] && [ -n "${MFL_JAX_REQUEUE:-}" ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$retries" ]; then
      say "stopped with a checkpoint; queued again, $((${SLURM_RESTART_COUNT:-0} + 1)) of $retries"
      scontrol requeue "$SLURM_JOB_ID"
    else
      say "error: stopped with a checkpoint, and --retries=$retries allows no more; submit it again to go on"
    fi
  fi
  return "$status"
}

# Prints the job for sbatch.
job() {
  local option line number word set workdir='' before='' array='' flags=("$@")
  for word in "$@"; do
    case $word in --workdir=*) workdir=${word#*=} ;; esac
    case $before in --workdir) workdir=$word ;; esac
    before=$word
  done
  if [ -n "$seeds$list" ] && [ -z "$workdir" ]; then
    fail "${seeds:+--seeds}${list:+--list} needs --workdir=DIR behind --: each run gets a folder in it"
  fi
  [ -z "$seeds" ] || [ -z "$list" ] || fail "--seeds and --list do not go together: write the seeds into the list, as --config.seed=N"
  echo '#!/bin/bash'
  echo '#SBATCH --job-name=mfl_jax'
  echo "#SBATCH --nodes=$nodes"
  echo '#SBATCH --ntasks-per-node=1'
  [ "$gpus" -eq 0 ] || echo "#SBATCH --gpus-per-node=$gpus"
  [ -z "$cpus" ] || echo "#SBATCH --cpus-per-task=$cpus"
  [ -z "$time" ] || echo "#SBATCH --time=$time"
  # To the tasks, a minute before the time limit: a checkpoint takes less.
  echo '#SBATCH --signal=TERM@60'
  echo '#SBATCH --requeue'
  echo '#SBATCH --open-mode=append'
  if [ -n "$list" ]; then
    set=''
    number=0
    while IFS= read -r line || [ -n "$line" ]; do
      case $line in '' | '#'*) continue ;; esac
      flags=()
      # xargs reads quotes as a shell does, and runs nothing.
      while IFS= read -r word; do flags+=("$word"); done < <(printf '%s\n' "$line" | xargs -n 1 printf '%s\n')
      set="$set  $number) set -- $(quoted "$@" "${flags[@]}" "--workdir=$workdir/job$number") ;;
"
      number=$((number + 1))
    done <"$list"
    [ "$number" -gt 0 ] || fail "--list=$list: no line of flags in it"
    array=0-$((number - 1))
    set="case \$SLURM_ARRAY_TASK_ID in
${set}esac"
  elif [ -n "$seeds" ]; then
    array=$seeds
    # shellcheck disable=SC2016  # for the job
    set="set -- $(quoted "$@") \"--config.seed=\$SLURM_ARRAY_TASK_ID\" $(quoted "--workdir=$workdir/seed")\"\$SLURM_ARRAY_TASK_ID\""
  else
    set="set -- $(quoted "$@")"
  fi
  [ -z "$array" ] || echo "#SBATCH --array=$array${at_once:+%$at_once}"
  # The last says what counts where an option stands twice.
  for option in ${options[@]+"${options[@]}"}; do
    echo "#SBATCH $option"
  done
  printf '%s\n' "$set"
  echo "MFL_JAX_REQUEUE=1 exec $(quoted "$here/slurm.sh" "--gpus=$gpus" ${port:+"--port=$port"} "--retries=$retries" "--module=$module") -- \"\$@\""
}

if [ -n "${SLURM_JOB_ID:-}" ]; then
  [ -z "$seeds$list" ] || fail "${seeds:+--seeds}${list:+--list} submits jobs; call it outside an allocation (SLURM_JOB_ID is set)"
  within "$@"
  exit
fi
[ -z "$list" ] || [ -r "$list" ] || fail "--list=$list is no file"
text=$(job "$@")
if [ -n "$dry_run" ]; then
  printf '%s\n' "sbatch <<'END'" "$text" END
  exit
fi
command -v sbatch >/dev/null || fail "no sbatch here; call launch/slurm.sh on a node from which jobs are submitted"
# Once, before the jobs: those of an array would install into one folder at the same time.
(. "$here/environment.sh" "$extras")
printf '%s\n' "$text" | sbatch
