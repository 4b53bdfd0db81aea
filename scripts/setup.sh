#!/usr/bin/env bash
# The locked environment in $VENV, from nothing but $PYTHON (3.11) and pip. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { bash scripts/step.sh "$@"; }

echo "Setting up ${VENV} (once; every package is locked by its hash)"
"$PYTHON" -c 'import sys; assert sys.version_info[:2] >= (3, 11), "Python 3.11 or newer is needed"'
# Without pip inside, so that a Python that lacks ensurepip will do.
step "virtual environment" "$PYTHON" -m venv --without-pip "$VENV"
step "uv" "$PYTHON" -m pip --python "$VENV/bin/python" install --quiet --require-hashes -r requirements/uv.txt
export VIRTUAL_ENV="$PWD/$VENV"
step "locked packages (the longest step)" "$VENV/bin/uv" pip sync --quiet --require-hashes requirements/dev.txt
step "dspex-ray itself" "$VENV/bin/uv" pip install --quiet --no-deps --no-build-isolation -e .
