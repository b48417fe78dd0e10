#!/usr/bin/env bash
# Trains and evaluates on this machine with all its NVIDIA GPUs; installs into .venv the first time.
#   launch/gpu.sh [FLAG ...] -- --config=configs/proposed.py
#
#   --deterministic    the same bits from run to run, on the same GPUs and versions; slower (XLA_FLAGS=--xla_gpu_deterministic_ops=true)
#   --module=MODULE    mfl_jax.main (the default) or mfl_jax.experiment
#   --dry_run          prints the commands, a line each, and runs none
#
# CUDA_VISIBLE_DEVICES picks GPUs, XLA_PYTHON_CLIENT_MEM_FRACTION the share of their memory; both are left as they are.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/words.sh"

deterministic='' module=mfl_jax.main dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --deterministic) deterministic=1 ;;
    --module=*) module=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) help_of "$0"; exit ;;
    --) shift; break ;;
    *) fail "$1 is no flag of launch/gpu.sh (--help lists them); flags of the run stand behind --" ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "nothing to run: put the flags of $module behind --, e.g. -- --config=configs/proposed.py"
flags=${XLA_FLAGS:-}
[ -z "$deterministic" ] || flags="${flags:+$flags }--xla_gpu_deterministic_ops=true"
count='import jax; print(sum(device.platform == "gpu" for device in jax.local_devices()))'

if [ -n "$dry_run" ]; then
  python=${MFL_JAX_VENV:-$(dirname "$here")/.venv}/bin/python
  quoted nvidia-smi --list-gpus
  quoted "$python" -m pip install --editable "$(dirname "$here")[cuda]"
  quoted env XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" -c "$count"
  quoted env ${flags:+"XLA_FLAGS=$flags"} "$python" -m "$module" "$@"
  exit
fi
command -v nvidia-smi >/dev/null ||
  fail "no nvidia-smi here: install the NVIDIA driver, or use launch/local.sh, which also runs on a CPU"
case ${JAX_PLATFORMS:-} in
  '' | *cuda* | *gpu*) ;;
  *) fail "JAX_PLATFORMS=$JAX_PLATFORMS hides the GPUs; unset it" ;;
esac
listed=$(nvidia-smi --list-gpus | grep -c '^GPU') || fail "nvidia-smi lists no GPU; its own message says why: nvidia-smi"
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  listed=$(printf '%s' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c .) || fail "CUDA_VISIBLE_DEVICES is empty; unset it"
fi
. "$here/environment.sh" "[cuda]"
# The share of memory that a process takes at its start is not for this one.
seen=$(XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" -c "$count")
[ "$seen" = "$listed" ] || fail "jax sees $seen GPUs of $listed; its warnings stand above. The driver must be 580 or newer for CUDA 13" \
  "(here: $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | sed -n 1p))"
[ -z "$flags" ] || export XLA_FLAGS=$flags
exec "$python" -m "$module" "$@"
