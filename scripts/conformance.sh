#!/usr/bin/env bash
# schemathesis over the OpenAPI document of flyweight serve: valid and invalid requests, every check, nothing left out.
# `make conformance` runs it; EXAMPLES says how many requests for each operation and phase, SEED which ones.
# schemathesis lives in an environment of its own below build/interop, made once; SCHEMATHESIS names another command.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
FLYWEIGHT_PYTHON=${FLYWEIGHT_PYTHON:-$ROOT/.venv/bin/python}
FOLDER=$ROOT/build/interop/schemathesis-env
if [ -z "${SCHEMATHESIS:-}" ]; then
  if [ ! -e "$FOLDER/.complete" ]; then
    "$PYTHON" -m venv "$FOLDER"
    "$FOLDER/bin/python" -m pip install --quiet "schemathesis>=4,<5"
    touch "$FOLDER/.complete"
  fi
  SCHEMATHESIS=$FOLDER/bin/schemathesis
fi
exec "$FLYWEIGHT_PYTHON" "$ROOT/tests/interop/schemathesis_against_serve.py" --schemathesis "$SCHEMATHESIS" \
  --examples "${EXAMPLES:-50}" --seed "${SEED:-1}" "$@"
