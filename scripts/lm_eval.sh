#!/usr/bin/env bash
# lm-evaluation-harness against flyweight serve, without the network: `make lm-eval` runs it.
# The harness lives in an environment of its own below build/interop, made once; LM_EVAL_PYTHON names another one.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
FLYWEIGHT_PYTHON=${FLYWEIGHT_PYTHON:-$ROOT/.venv/bin/python}
FOLDER=$ROOT/build/interop/lm-eval-env
if [ -z "${LM_EVAL_PYTHON:-}" ]; then
  if [ ! -e "$FOLDER/.complete" ]; then
    "$PYTHON" -m venv "$FOLDER"
    "$FOLDER/bin/python" -m pip install --quiet torch==2.13.0
    "$FOLDER/bin/python" -m pip install --quiet "lm_eval[api]==0.4.13" transformers
    touch "$FOLDER/.complete"
  fi
  LM_EVAL_PYTHON=$FOLDER/bin/python
fi
exec "$FLYWEIGHT_PYTHON" "$ROOT/tests/interop/lm_eval_against_serve.py" --lm-eval "$LM_EVAL_PYTHON" "$@"
