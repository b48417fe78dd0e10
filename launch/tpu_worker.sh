#!/usr/bin/env bash
# Runs on each worker of a slice, called by launch/tpu_vm.sh:
#   launch/tpu_worker.sh install                  creates .venv; fetches a newer Python if the image has only an old one
#   launch/tpu_worker.sh run MODULE [FLAG ...]    starts the run or attaches to it, prints its output, exits with its status
#   launch/tpu_worker.sh stop                     makes the run write a checkpoint and end, and waits for it
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/command_lines.sh"
cd "$here/.."
run_folder=.tpu_run

install() {
  local candidate
  for candidate in python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      PYTHON=$candidate
      break
    fi
  done
  # Images with Ubuntu 22.04 have only Python 3.10.
  if [ -z "${PYTHON:-}" ]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install 3.12
    PYTHON=$(python3 -m uv python find --managed-python 3.12)
  fi
  . "$here/environment.sh" "[tpu,gcs]"
}

is_running() {
  # The process ID may have been reused, so the command line is checked too.
  [ -f "$run_folder/pid" ] && grep -q -a mfl_jax-run "/proc/$(cat "$run_folder/pid")/cmdline" 2>/dev/null
}

run() {
  local command worker status=137
  . "$here/environment.sh" "[tpu,gcs]"
  command=$(quote_command "$python" -m "$@")
  # A run that ended during a broken connection has left its status, which is still to be reported.
  if is_running || { [ -f "$run_folder/status" ] && [ "$(cat "$run_folder/command" 2>/dev/null)" = "$command" ]; }; then
    [ "$(cat "$run_folder/command")" = "$command" ] || fail "another run is in progress here: $(cat "$run_folder/command"); stop it: $0 stop"
  else
    mkdir -p "$run_folder"
    rm -f "$run_folder/status"
    printf '%s\n' "$command" >"$run_folder/command"
    : >"$run_folder/log"
    # setsid lets the run survive a broken connection, after which gcloud or tpu_vm.sh calls this script again.
    # SIGTERM goes to the whole process group; the shell around the run ignores it and records the exit status.
    # shellcheck disable=SC2016  # expanded by the inner shell
    setsid bash -c 'trap : TERM; "$@"; echo $? >.tpu_run/status' mfl_jax-run "$python" -m "$@" </dev/null >>"$run_folder/log" 2>&1 &
    echo $! >"$run_folder/pid"
  fi
  worker=$(hostname)
  worker=w-${worker##*-w-}
  tail -n +1 -s 0.2 -f --pid="$(cat "$run_folder/pid")" "$run_folder/log" | sed -u "s/^/[$worker] /"
  [ ! -f "$run_folder/status" ] || status=$(cat "$run_folder/status")
  rm -f "$run_folder/status"
  exit "$status"
}

stop() {
  local tenths=0
  is_running || return 0
  kill -TERM -- "-$(cat "$run_folder/pid")"
  while is_running && [ "$tenths" -lt 600 ]; do
    sleep 0.1
    tenths=$((tenths + 1))
  done
  ! is_running || kill -KILL -- "-$(cat "$run_folder/pid")"
  rm -f "$run_folder/command"
}

case ${1:-} in
  install | run | stop) "$@" ;;
  *) fail "unknown command '${1:-}': must be install, run or stop" ;;
esac
