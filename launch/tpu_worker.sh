#!/usr/bin/env bash
# What launch/tpu_vm.sh calls on each worker of a slice:
#   launch/tpu_worker.sh install                  makes .venv, with a Python of its own where the image has none that is new enough
#   launch/tpu_worker.sh run MODULE [FLAG ...]    starts the run, or joins the one that goes on; shows it until it ends, has its status
#   launch/tpu_worker.sh stop                     asks the run to checkpoint and to end; waits for that
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/words.sh"
cd "$here/.."
folder=.tpu_run

install() {
  local candidate
  for candidate in python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      PYTHON=$candidate
      break
    fi
  done
  # The images with Ubuntu 22.04 bring Python 3.10.
  if [ -z "${PYTHON:-}" ]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install 3.12
    PYTHON=$(python3 -m uv python find --managed-python 3.12)
  fi
  . "$here/environment.sh" "[tpu,gcs]"
}

alive() {
  # The number alone may be another process's since.
  [ -f "$folder/pid" ] && grep -q -a mfl_jax-run "/proc/$(cat "$folder/pid")/cmdline" 2>/dev/null
}

run() {
  local wanted worker status=137
  . "$here/environment.sh" "[tpu,gcs]"
  wanted=$(quoted "$python" -m "$@")
  # One that ended while nobody was connected has a status that is still to be told.
  if alive || { [ -f "$folder/status" ] && [ "$(cat "$folder/command" 2>/dev/null)" = "$wanted" ]; }; then
    [ "$(cat "$folder/command")" = "$wanted" ] || fail "another run goes on here: $(cat "$folder/command"); stop it: $0 stop"
  else
    mkdir -p "$folder"
    rm -f "$folder/status"
    printf '%s\n' "$wanted" >"$folder/command"
    : >"$folder/log"
    # A session of its own: the run outlives a broken connection, after which gcloud calls this again by itself.
    # The shell about the run takes SIGTERM with it, and stays to write its status down.
    # shellcheck disable=SC2016  # for the inner shell
    setsid bash -c 'trap : TERM; "$@"; echo $? >.tpu_run/status' mfl_jax-run "$python" -m "$@" </dev/null >>"$folder/log" 2>&1 &
    echo $! >"$folder/pid"
  fi
  worker=$(hostname)
  worker=w-${worker##*-w-}
  tail -n +1 -s 0.2 -f --pid="$(cat "$folder/pid")" "$folder/log" | sed -u "s/^/[$worker] /"
  [ ! -f "$folder/status" ] || status=$(cat "$folder/status")
  rm -f "$folder/status"
  exit "$status"
}

stop() {
  local waited=0
  alive || return 0
  kill -TERM -- "-$(cat "$folder/pid")"
  while alive && [ "$waited" -lt 600 ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  ! alive || kill -KILL -- "-$(cat "$folder/pid")"
  rm -f "$folder/command"
}

case ${1:-} in
  install | run | stop) "$@" ;;
  *) fail "install, run or stop, not '${1:-}'" ;;
esac
