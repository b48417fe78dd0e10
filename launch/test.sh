#!/usr/bin/env bash
# Runs the whole test suite. Installs into .venv the first time. Takes the arguments of pytest.
# Tests that need an optional package are skipped without it; MFL_JAX_EXTRAS=peer,eval,jams,onnx,gcs,emulator,beam installs all of them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "[test${MFL_JAX_EXTRAS:+,$MFL_JAX_EXTRAS}]"
cd "$root"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
# Two processes take one file at a time, in the order of tests/conftest.py. Much of the work is compiling, which uses one core.
exec "$python" -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
