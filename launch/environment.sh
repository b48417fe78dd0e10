# Sourced by the other launch scripts: creates the virtual environment .venv of the checkout if needed, and sets $python to its Python.
# usage: . launch/environment.sh EXTRAS        (e.g. "" or "[test]")
#
# PYTHON selects the interpreter (3.11 to 3.13); MFL_JAX_VENV selects another folder than .venv.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MFL_JAX_VENV:-$root/.venv}
python=$venv/bin/python

find_python() {
  local candidate candidates=${PYTHON:-python3.13 python3.12 python3.11 python3 python}
  for candidate in $candidates; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11, 3.12 or 3.13 found (tried: $candidates); set PYTHON" >&2
  return 1
}

install_package() {
  local extras=$1 checksum stamp interpreter
  # Install again only when the pinned versions, the extras or the path of the checkout change.
  checksum=$( (cat "$root/setup.cfg" "$root/pyproject.toml"; echo "$root $extras") | cksum)
  stamp=$venv/mfl_jax-installed${extras//[^a-z]/-}
  if [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$checksum" ]; then
    return
  fi
  interpreter=$(find_python) || return 1
  echo "installing into $venv with $("$interpreter" --version 2>&1); the first time takes a few minutes" >&2
  [ -x "$python" ] || "$interpreter" -m venv "$venv" || return 1
  "$python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras" || return 1
  printf '%s\n' "$checksum" >"$stamp"
}

install_package "${1:-}" || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.jax_cache}
