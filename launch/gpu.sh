#!/usr/bin/env bash
# Trains and evaluates on this machine with all its NVIDIA GPUs. Installs into .venv the first time.
#   launch/gpu.sh [FLAG ...] -- --config=configs/proposed.py --config.compute=bfloat16
#
#   --deterministic    identical results from run to run on the same GPUs and versions; slower (XLA_FLAGS=--xla_gpu_deterministic_ops=true)
#   --module=MODULE    mfl_jax.main (default) or mfl_jax.experiment
#   --dry_run          print the commands, one per line, without running them
#
# Flags of the run go after --. CUDA_VISIBLE_DEVICES selects GPUs and XLA_PYTHON_CLIENT_MEM_FRACTION sets the share of their memory
# to use; the script does not change either.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/command_lines.sh"

deterministic='' module=mfl_jax.main dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --deterministic) deterministic=1 ;;
    --module=*) module=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) print_help "$0"; exit ;;
    --) shift; break ;;
    *) fail "unknown flag $1 (--help lists the flags of launch/gpu.sh); flags of the run go after --" ;;
  esac
  shift
done
[ $# -gt 0 ] || fail "nothing to run: put the flags of $module after --, e.g. -- --config=configs/proposed.py"
xla_flags=${XLA_FLAGS:-}
[ -z "$deterministic" ] || xla_flags="${xla_flags:+$xla_flags }--xla_gpu_deterministic_ops=true"
count_gpus='import jax; print(sum(device.platform == "gpu" for device in jax.local_devices()))'

if [ -n "$dry_run" ]; then
  python=${MFL_JAX_VENV:-$(dirname "$here")/.venv}/bin/python
  quote_command nvidia-smi --list-gpus
  quote_command "$python" -m pip install --editable "$(dirname "$here")[cuda]"
  quote_command env XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" -c "$count_gpus"
  quote_command env ${xla_flags:+"XLA_FLAGS=$xla_flags"} "$python" -m "$module" "$@"
  exit
fi
command -v nvidia-smi >/dev/null ||
  fail "nvidia-smi not found: install the NVIDIA driver, or use launch/local.sh, which also runs on a CPU"
case ${JAX_PLATFORMS:-} in
  '' | *cuda* | *gpu*) ;;
  *) fail "JAX_PLATFORMS=$JAX_PLATFORMS hides the GPUs; unset it" ;;
esac
gpu_count=$(nvidia-smi --list-gpus | grep -c '^GPU') || fail "nvidia-smi lists no GPU; run nvidia-smi to see why"
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  gpu_count=$(printf '%s' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c .) || fail "CUDA_VISIBLE_DEVICES is empty; unset it"
fi
. "$here/environment.sh" "[cuda]"
# Preallocation is off: this process only counts devices.
jax_gpu_count=$(XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" -c "$count_gpus")
[ "$jax_gpu_count" = "$gpu_count" ] || fail "jax sees $jax_gpu_count of $gpu_count GPUs; see its warnings above. CUDA 13 needs driver 580 or newer" \
  "(installed: $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | sed -n 1p))"
[ -z "$xla_flags" ] || export XLA_FLAGS=$xla_flags
exec "$python" -m "$module" "$@"
