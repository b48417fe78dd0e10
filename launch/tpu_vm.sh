#!/usr/bin/env bash
# Runs mfl_jax on a Cloud TPU VM or pod slice: creates it, copies the checkout, installs, runs on all workers, fetches, deletes.
#   launch/tpu_vm.sh --name=NAME --zone=ZONE --type=v5litepod-8 [FLAG ...] -- --config=configs/proposed.py --workdir=gs://BUCKET/runs/x
#
#   --name=NAME        the slice; if it exists it is used, and deleted at the end like any other
#   --zone=ZONE        where it is
#   --type=TYPE        accelerator type: v5litepod-8, v6e-8, v5p-8, v4-8 ...
#   --project=ID       project; that of gcloud's settings by default
#   --version=RUNTIME  runtime version; by default the one that Google names for JAX and this type
#   --spot             cheaper, and preemptible at any time
#   --queued           asks by a queued resource, which waits until there is one
#   --data=DIR         copies a folder of prepared data sets into data/ of every worker
#   --fetch=DIR        copies the work directory of worker 0 into DIR at the end (from gs:// nothing need be fetched)
#   --retries=N        how often a run that was preempted or cut off goes on (5)
#   --module=MODULE    mfl_jax.main (the default) or mfl_jax.experiment
#   --keep             does not delete the slice at the end; it is billed until it is deleted
#   --dry_run          prints the commands, a line each, and runs none
#
# Ctrl-C, or a terminal that is closed, lets the run checkpoint, then fetches and deletes as at the end. Status: that of the run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
. "$here/words.sh"
poll_s=${MFL_JAX_POLL_S:-15}

name='' zone='' type='' project='' version='' spot='' queued='' data='' fetch='' retries=5 module=mfl_jax.main keep='' dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --spot) spot=--spot ;;
    --queued) queued=1 ;;
    --data=*) data=${1#*=} ;;
    --fetch=*) fetch=${1#*=} ;;
    --retries=*) retries=${1#*=} ;;
    --module=*) module=${1#*=} ;;
    --keep) keep=1 ;;
    --dry_run) dry_run=1 ;;
    --help) help_of "$0"; exit ;;
    --) shift; break ;;
    *) fail "$1 is no flag of launch/tpu_vm.sh (--help lists them); flags of the run stand behind --" ;;
  esac
  shift
done
[ -n "$name" ] || fail "--name=NAME is missing: a name for the TPU VM"
[ -n "$zone" ] || fail "--zone=ZONE is missing, e.g. --zone=us-central1-a"
[ -n "$type" ] || fail "--type=TYPE is missing, e.g. --type=v5litepod-8"
case $retries in '' | *[!0-9]*) fail "--retries=$retries is no number" ;; esac
[ $# -gt 0 ] || fail "nothing to run: put the flags of $module behind --, e.g. -- --config=configs/proposed.py"
[ -z "$data" ] || [ -n "$dry_run" ] || [ -d "$data" ] || fail "--data=$data is no folder"
if [ -z "$version" ]; then
  case $type in
    v6e-*) version=v2-alpha-tpuv6e ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
    *) fail "--type=$type: no runtime is known for it; give --version=RUNTIME (gcloud compute tpus tpu-vm versions list --zone=$zone)" ;;
  esac
fi

workdir=runs before=''
for word in "$@"; do
  case $word in --workdir=*) workdir=${word#*=} ;; esac
  case $before in --workdir) workdir=$word ;; esac
  before=$word
done
case $workdir in
  gs://*) fetch='' ;;
  *) [ -z "$spot" ] || say "warning: --workdir is no gs:// folder: what a spot slice has learnt is lost when it is preempted" ;;
esac

place=("--zone=$zone")
[ -z "$project" ] || place+=("--project=$project")
place+=(--quiet)
child=''

# gcloud compute tpus GROUP VERB ..., printed in a dry run. In the background, since a shell that waits hears a signal at once.
tpus() {
  local status=0
  set -- gcloud compute tpus "$@" "${place[@]}"
  if [ -n "$dry_run" ]; then
    quoted "$@"
    return
  fi
  "$@" &
  child=$!
  wait "$child" || status=$?
  child=''
  return "$status"
}

# The state of something, NONE where there is no such thing, UNKNOWN where gcloud could not say.
state_of() {
  local said
  if said=$(tpus "$@" 2>"$scratch/errors"); then
    printf '%s\n' "${said:-UNKNOWN}"
  elif grep -q -i -E 'NOT_FOUND|not found' "$scratch/errors"; then
    echo NONE
  else
    cat "$scratch/errors" >&2
    echo UNKNOWN
  fi
}

node_state() {
  state_of tpu-vm describe "$name" '--format=value(state)'
}

queue_state() {
  state_of queued-resources describe "$name" '--format=value(state.state)'
}

state() {
  local state
  state=$(node_state)
  [ "$state" != NONE ] || [ -z "$queued" ] || state=$(queue_state)
  # A request that is granted, of whose slice there is no sign yet.
  [ "$state" != ACTIVE ] || state=PROVISIONING
  printf '%s\n' "$state"
}

create() {
  if [ -n "$queued" ]; then
    tpus queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$version" $spot
  else
    tpus tpu-vm create "$name" "--accelerator-type=$type" "--version=$version" $spot
  fi
}

delete() {
  if [ -n "$queued" ]; then
    tpus queued-resources delete "$name" --force
  else
    tpus tpu-vm delete "$name"
  fi
}

on_workers() {
  tpus tpu-vm ssh "$name" --worker=all "--command=$1"
}

ensure_slice() {
  local asked=''
  while :; do
    case $(state) in
      READY) return ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | STARTING | RESTARTING | REIMAGING | REPAIRING | DELETING | SUSPENDING)
        sleep "$poll_s"
        ;;
      UNKNOWN)
        [ -n "$ours" ] || fail "gcloud cannot say whether $name exists (its message stands above); nothing was created"
        sleep "$poll_s"
        ;;
      NONE)
        ours=1
        create || return
        asked=1
        ;;
      FAILED)
        [ -z "$asked" ] || fail "the request for $name failed; gcloud compute tpus queued-resources describe $name --zone=$zone says why"
        delete || return
        ;;
      *) delete || return ;;
    esac
  done
}

pack() {
  local file
  git -C "$root" rev-parse --git-dir >/dev/null 2>&1 || fail "$root is no git checkout; the files that git tracks are what is copied"
  # macOS adds files of its own otherwise.
  export COPYFILE_DISABLE=1
  # A file that was deleted and is still tracked would end tar.
  (cd "$root" && git ls-files -z | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
  done | tar --null -czf "$scratch/checkout.tar.gz" -T -)
  [ -z "$data" ] || tar -C "$data" -cf "$scratch/data.tar" .
}

copy() {
  tpus tpu-vm scp "$scratch/checkout.tar.gz" ${data:+"$scratch/data.tar"} "$name:" --worker=all
}

install() {
  on_workers "mkdir -p mfl_jax/data && tar -xzf checkout.tar.gz -C mfl_jax${data:+ && tar -xf data.tar -C mfl_jax/data && rm data.tar} && mfl_jax/launch/tpu_worker.sh install"
}

run() {
  on_workers "mfl_jax/launch/tpu_worker.sh run $(quoted "$module" "$@")"
}

fetch() {
  local from
  case $workdir in /*) from=$workdir ;; *) from=mfl_jax/$workdir ;; esac
  [ -n "$dry_run" ] || mkdir -p "$fetch"
  tpus tpu-vm scp "$name:$from" "$fetch" --recurse --worker=0
}

if [ -n "$dry_run" ]; then
  scratch=/tmp/mfl_jax.XXXXXX
  tpus tpu-vm describe "$name" '--format=value(state)'
  [ -z "$queued" ] || tpus queued-resources describe "$name" '--format=value(state.state)'
  create
  tpus tpu-vm describe "$name" '--format=value(state)'
  copy
  install
  run "$@"
  [ -z "$fetch" ] || fetch
  [ -n "$keep" ] || delete
  exit
fi
command -v gcloud >/dev/null || fail "no gcloud here; install the Google Cloud CLI: https://cloud.google.com/sdk/docs/install"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mfl_jax.XXXXXX")
# ours: there may be a slice that is billed; running: a run may go on; ran: one did, so that there may be something to fetch.
ours='' running='' ran=''

finish() {
  local status=$? tries=0
  trap - EXIT
  trap '' INT TERM HUP
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
  if [ -n "$running" ]; then
    ran=1
    say "stopping the run on $name, so that it checkpoints"
    on_workers "mfl_jax/launch/tpu_worker.sh stop" || true
  fi
  # After a wrong flag there is nothing.
  if [ -n "$ran" ] && [ -n "$fetch" ] && [ "$status" -ne 2 ] && ! fetch; then
    say "error: $workdir could not be fetched from $name"
    # What a run has learnt that ended well is nowhere else.
    case $status in 0 | 130 | 143) [ "$(state)" != READY ] || keep=1 ;; esac
    [ "$status" -ne 0 ] || status=1
  fi
  if [ -n "$ours" ] && [ -z "$keep" ]; then
    until [ "$(state)" = NONE ] || delete; do
      tries=$((tries + 1))
      [ "$tries" -lt 3 ] || break
      sleep "$poll_s"
    done
    [ "$tries" -lt 3 ] || keep=1
  fi
  if [ -n "$ours" ] && [ -n "$keep" ]; then
    dry_run=1
    say "$name is kept, and billed until it is deleted: $(delete)"
  fi
  rm -rf "$scratch"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Whether what ended with this status was cut off, rather than wrong. A slice that is preempted takes a while to say so.
cut_off() {
  [ "$1" -ne 2 ] || return 1
  if [ "$step" = "$creating" ]; then
    # What was there once can be had again, sooner or later.
    [ -n "$had" ] || return 1
    sleep "$poll_s"
    return 0
  fi
  for _ in 1 2 3 4; do
    case $(state) in
      READY | UNKNOWN) sleep "$poll_s" ;;
      *) return 0 ;;
    esac
  done
  case $1 in 130 | 143 | 255) return 0 ;; *) return 1 ;; esac
}

pack
tries=0 installed='' had='' creating='creating the slice'
while :; do
  status=0 step=$creating
  ensure_slice || status=$?
  ours=1
  [ "$status" -ne 0 ] || had=1
  if [ "$status" -eq 0 ] && [ -z "$installed" ]; then
    step='copying the checkout'
    copy || status=$?
    if [ "$status" -eq 0 ]; then
      step='installing'
      install || status=$?
    fi
    [ "$status" -ne 0 ] || installed=1
  fi
  if [ "$status" -eq 0 ]; then
    step='the run'
    running=1
    run "$@" || status=$?
    running=''
    ran=1
  fi
  [ "$status" -ne 0 ] || exit 0
  say "$step ended with status $status"
  if ! cut_off "$status"; then
    [ "$step" != "$creating" ] || say "error: $name could not be had (gcloud says why, above); is there no capacity, --queued waits for it"
    exit "$status"
  fi
  tries=$((tries + 1))
  if [ "$tries" -gt "$retries" ]; then
    say "error: cut off $tries times; --retries=$retries allows no more"
    exit "$status"
  fi
  say "$name was cut off; trying again, $tries of $retries"
  # A slice that is there has all that was installed on it.
  [ "$(state)" = READY ] || installed='' ran=''
done
