#!/usr/bin/env bash
# Runs mfl_jax on a Cloud TPU VM or pod slice: creates it, copies the checkout, installs, runs on all workers, fetches the results,
# deletes the slice.
#   launch/tpu_vm.sh --name=NAME --zone=ZONE --type=v5litepod-8 [FLAG ...] -- \
#       --config=configs/proposed.py --config.compute=bfloat16 --workdir=gs://BUCKET/runs/x
#
#   --name=NAME        name of the slice; an existing slice is used, and is deleted at the end too
#   --zone=ZONE        zone of the slice
#   --type=TYPE        accelerator type: v5litepod-8, v6e-8, v5p-8, v4-8 ...
#   --project=ID       Google Cloud project (default: the project in gcloud's configuration)
#   --version=RUNTIME  runtime version (default: the version that Google recommends for JAX on this type)
#   --spot             request a spot slice: cheaper, but it can be preempted at any time
#   --queued           request a queued resource, which waits for capacity
#   --data=DIR         copy a folder of prepared data sets to data/ on every worker
#   --fetch=DIR        copy the work directory of worker 0 to DIR at the end (not needed for gs://)
#   --retries=N        maximum number of restarts after a preemption or a broken connection (default 5)
#   --module=MODULE    mfl_jax.main (default) or mfl_jax.experiment
#   --keep             keep the slice at the end; it is billed until you delete it
#   --dry_run          print the commands, one per line, without running them
#
# Flags of the run go after --. After Ctrl-C, or when the terminal closes, the run writes a checkpoint, then the script fetches and
# deletes as usual. The exit status is that of the run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
. "$here/command_lines.sh"
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
    --help) print_help "$0"; exit ;;
    --) shift; break ;;
    *) fail "unknown flag $1 (--help lists the flags of launch/tpu_vm.sh); flags of the run go after --" ;;
  esac
  shift
done
[ -n "$name" ] || fail "--name=NAME is missing: a name for the TPU VM"
[ -n "$zone" ] || fail "--zone=ZONE is missing, e.g. --zone=us-central1-a"
[ -n "$type" ] || fail "--type=TYPE is missing, e.g. --type=v5litepod-8"
case $retries in '' | *[!0-9]*) fail "--retries=$retries: must be a number" ;; esac
[ $# -gt 0 ] || fail "nothing to run: put the flags of $module after --, e.g. -- --config=configs/proposed.py"
[ -z "$data" ] || [ -n "$dry_run" ] || [ -d "$data" ] || fail "--data=$data: not a folder"
if [ -z "$version" ]; then
  case $type in
    v6e-*) version=v2-alpha-tpuv6e ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
    *) fail "--type=$type: no known runtime version; set --version=RUNTIME (list: gcloud compute tpus tpu-vm versions list --zone=$zone)" ;;
  esac
fi

workdir=runs previous=''
for word in "$@"; do
  case $word in --workdir=*) workdir=${word#*=} ;; esac
  case $previous in --workdir) workdir=$word ;; esac
  previous=$word
done
case $workdir in
  gs://*) fetch='' ;;
  *) [ -z "$spot" ] || say "warning: --workdir is not a gs:// folder; a preempted spot slice loses all progress" ;;
esac

common_flags=("--zone=$zone")
[ -z "$project" ] || common_flags+=("--project=$project")
common_flags+=(--quiet)
child=''

# Runs `gcloud compute tpus GROUP VERB ...`, or prints it in a dry run. gcloud runs in the background because a shell in `wait`
# handles signals at once.
run_gcloud() {
  local status=0
  set -- gcloud compute tpus "$@" "${common_flags[@]}"
  if [ -n "$dry_run" ]; then
    quote_command "$@"
    return
  fi
  "$@" &
  child=$!
  wait "$child" || status=$?
  child=''
  return "$status"
}

# Prints the state of a resource: NONE if it does not exist, UNKNOWN if gcloud failed.
#   describe GROUP FIELD
describe() {
  local answer
  if answer=$(run_gcloud "$1" describe "$name" "--format=value($2)" 2>"$scratch/errors"); then
    printf '%s\n' "${answer:-UNKNOWN}"
  elif grep -q -i -E 'NOT_FOUND|not found' "$scratch/errors"; then
    echo NONE
  else
    cat "$scratch/errors" >&2
    echo UNKNOWN
  fi
}

# Prints the state of the slice, or of the request for it.
get_state() {
  local state
  state=$(describe tpu-vm state)
  [ "$state" != NONE ] || [ -z "$queued" ] || state=$(describe queued-resources state.state)
  # The request has been granted, but the slice is not visible yet.
  [ "$state" != ACTIVE ] || state=PROVISIONING
  printf '%s\n' "$state"
}

create() {
  if [ -n "$queued" ]; then
    run_gcloud queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$version" $spot
  else
    run_gcloud tpu-vm create "$name" "--accelerator-type=$type" "--version=$version" $spot
  fi
}

delete() {
  if [ -n "$queued" ]; then
    run_gcloud queued-resources delete "$name" --force
  else
    run_gcloud tpu-vm delete "$name"
  fi
}

on_workers() {
  run_gcloud tpu-vm ssh "$name" --worker=all "--command=$1"
}

ensure_slice() {
  local requested=''
  while :; do
    case $(get_state) in
      READY) return ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | STARTING | RESTARTING | REIMAGING | REPAIRING | DELETING | SUSPENDING)
        sleep "$poll_s"
        ;;
      UNKNOWN)
        [ -n "$may_be_billed" ] || fail "gcloud could not tell whether $name exists (see its message above); nothing was created"
        sleep "$poll_s"
        ;;
      NONE)
        may_be_billed=1
        create || return
        requested=1
        ;;
      FAILED)
        [ -z "$requested" ] || fail "the request for $name failed; see: gcloud compute tpus queued-resources describe $name --zone=$zone"
        delete || return
        ;;
      *) delete || return ;;
    esac
  done
}

pack() {
  local file
  git -C "$root" rev-parse --git-dir >/dev/null 2>&1 || fail "$root: not a git checkout; only files tracked by git are copied"
  # Keeps macOS from adding its metadata files.
  export COPYFILE_DISABLE=1
  # tar would fail on a tracked file that has been deleted.
  (cd "$root" && git ls-files -z | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
  done | tar --null -czf "$scratch/checkout.tar.gz" -T -)
  [ -z "$data" ] || tar -C "$data" -cf "$scratch/data.tar" .
}

copy() {
  run_gcloud tpu-vm scp "$scratch/checkout.tar.gz" ${data:+"$scratch/data.tar"} "$name:" --worker=all
}

install() {
  on_workers "mkdir -p mfl_jax/data && tar -xzf checkout.tar.gz -C mfl_jax${data:+ && tar -xf data.tar -C mfl_jax/data && rm data.tar} && mfl_jax/launch/tpu_worker.sh install"
}

run() {
  on_workers "mfl_jax/launch/tpu_worker.sh run $(quote_command "$module" "$@")"
}

fetch() {
  local source
  case $workdir in /*) source=$workdir ;; *) source=mfl_jax/$workdir ;; esac
  [ -n "$dry_run" ] || mkdir -p "$fetch"
  run_gcloud tpu-vm scp "$name:$source" "$fetch" --recurse --worker=0
}

if [ -n "$dry_run" ]; then
  scratch=/tmp/mfl_jax.XXXXXX
  run_gcloud tpu-vm describe "$name" '--format=value(state)'
  [ -z "$queued" ] || run_gcloud queued-resources describe "$name" '--format=value(state.state)'
  create
  run_gcloud tpu-vm describe "$name" '--format=value(state)'
  copy
  install
  run "$@"
  [ -z "$fetch" ] || fetch
  [ -n "$keep" ] || delete
  exit
fi
command -v gcloud >/dev/null || fail "gcloud not found: install the Google Cloud CLI, https://cloud.google.com/sdk/docs/install"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mfl_jax.XXXXXX")
# may_be_billed: a slice may exist. running: a run may be in progress. has_run: a run was started, so there may be results to fetch.
may_be_billed='' running='' has_run=''

finish() {
  local status=$? tries=0
  trap - EXIT
  trap '' INT TERM HUP
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
  if [ -n "$running" ]; then
    has_run=1
    say "stopping the run on $name; it writes a checkpoint first"
    on_workers "mfl_jax/launch/tpu_worker.sh stop" || true
  fi
  # Status 2 means a wrong flag: there is nothing to fetch.
  if [ -n "$has_run" ] && [ -n "$fetch" ] && [ "$status" -ne 2 ] && ! fetch; then
    say "error: could not fetch $workdir from $name"
    # The slice holds the only copy of the results of a successful run.
    case $status in 0 | 130 | 143) [ "$(get_state)" != READY ] || keep=1 ;; esac
    [ "$status" -ne 0 ] || status=1
  fi
  if [ -n "$may_be_billed" ] && [ -z "$keep" ]; then
    until [ "$(get_state)" = NONE ] || delete; do
      tries=$((tries + 1))
      [ "$tries" -lt 3 ] || break
      sleep "$poll_s"
    done
    [ "$tries" -lt 3 ] || keep=1
  fi
  if [ -n "$may_be_billed" ] && [ -n "$keep" ]; then
    dry_run=1
    say "$name was kept and is billed until you delete it: $(delete)"
  fi
  rm -rf "$scratch"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Succeeds if the step that ended with status $1 was interrupted rather than wrong, so that a retry makes sense. A preempted slice
# takes a while to report its state.
was_interrupted() {
  [ "$1" -ne 2 ] || return 1
  if [ "$step" = "$creating" ]; then
    # There was capacity before, so wait for it to come back.
    [ -n "$had_slice" ] || return 1
    sleep "$poll_s"
    return 0
  fi
  for _ in 1 2 3 4; do
    case $(get_state) in
      READY | UNKNOWN) sleep "$poll_s" ;;
      *) return 0 ;;
    esac
  done
  case $1 in 130 | 143 | 255) return 0 ;; *) return 1 ;; esac
}

pack
tries=0 installed='' had_slice='' creating='creating the slice'
while :; do
  status=0 step=$creating
  ensure_slice || status=$?
  may_be_billed=1
  [ "$status" -ne 0 ] || had_slice=1
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
    has_run=1
  fi
  [ "$status" -ne 0 ] || exit 0
  say "$step ended with status $status"
  if ! was_interrupted "$status"; then
    [ "$step" != "$creating" ] || say "error: could not create $name (see gcloud's message above); if there is no capacity, --queued waits for it"
    exit "$status"
  fi
  tries=$((tries + 1))
  if [ "$tries" -gt "$retries" ]; then
    say "error: interrupted $tries times; --retries=$retries allows no more"
    exit "$status"
  fi
  say "$name was interrupted; retrying ($tries of $retries)"
  # A slice that still exists keeps its installation.
  [ "$(get_state)" = READY ] || installed='' has_run=''
done
