#!/usr/bin/env bash
# Trains and evaluates on this machine. Installs into .venv the first time. Takes the flags of mfl_jax.main:
#   launch/local.sh --config=configs/proposed.py:quick
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" ""
exec "$python" -m mfl_jax.main "$@"
