# make demo      install into .venv and run the demo: compress, prove, answer
# make test      install with everything the tests need and run them
# make test-optimized   the tests of security and the server once more under python -O, which drops assert
# make check     formatting, lint, types
# make interop   compressed checkpoints in transformers, vLLM and back from llm-compressor, each in its own environment
# make lm-eval   lm-evaluation-harness against flyweight serve, in an environment of its own
# make conformance  schemathesis over the server's OpenAPI document, in an environment of its own
# make native    the kernels, built next to the sources, for working on them (PYTHON must have cmake and nanobind)
# Every target sets up what it needs; Python 3.11 or newer and a C++ compiler are all it asks of the machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src native CMakeLists.txt pyproject.toml -type f -not -name '*.so' -not -path '*__pycache__*')
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

CMAKE ?= $(PYTHON) -m cmake

.PHONY: demo test test-optimized check interop lm-eval conformance native native-sanitize native-emulated clean

demo: $(VENV)/.installed
	$(BIN)/flyweight demo

# A file stays with one worker, and files go out in the order of tests/support/order.py, not by their number of tests.
# The asserts that pytest has rewritten are kept for the next time.
test: $(VENV)/.test-installed
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# pytest's own asserts are statements of its rewriting and hold under -O; it warns about those in helpers, which raise.
test-optimized: $(VENV)/.test-installed
	$(BIN)/python -O -m pytest -n auto --dist loadfile --no-loadscope-reorder -W ignore::pytest.PytestConfigWarning tests/security tests/serving

check: $(VENV)/.test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src

interop: $(VENV)/.installed
	FLYWEIGHT=$(abspath $(BIN)/flyweight) PYTHON=$(PYTHON) bash scripts/interop.sh

lm-eval: $(VENV)/.installed
	FLYWEIGHT_PYTHON=$(abspath $(BIN)/python) PYTHON=$(PYTHON) bash scripts/lm_eval.sh

conformance: $(VENV)/.installed
	FLYWEIGHT_PYTHON=$(abspath $(BIN)/python) PYTHON=$(PYTHON) bash scripts/conformance.sh

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Flyweight needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The lines say what takes the time: two minutes of silence look like a fault.
$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@echo "installing Flyweight and its libraries into $(VENV) (compiles the kernels: a minute or two)"
	$(PIP) .
	@touch $@

$(VENV)/.test-installed: $(SOURCES) | $(BIN)/python
	@echo "installing Flyweight and what its tests compare with (PyTorch, transformers, compressed-tensors) into $(VENV)"
	$(PIP) '.[torch,test,dev]'
	@touch $@ $(VENV)/.installed

native:
	@$(CMAKE) -S . -B build/native -DCMAKE_BUILD_TYPE=Release -DFLYWEIGHT_STRICT=$(or $(STRICT),OFF) \
	  -DPython_EXECUTABLE=$$($(PYTHON) -c "import sys; print(sys.executable)") \
	  -Dnanobind_DIR=$$($(PYTHON) -m nanobind --cmake_dir) > build-native.log 2>&1 || (cat build-native.log; exit 1)
	@rm -f build-native.log
	@$(CMAKE) --build build/native -j 2
	@$(CMAKE) --install build/native --prefix src

# The kernels under the address and undefined-behaviour sanitizers, on shapes that do not fit their tiles.
native-sanitize:
	@$(CMAKE) -S . -B build/sanitize -DFLYWEIGHT_SANITIZE=ON
	@$(CMAKE) --build build/sanitize -j 2
	build/sanitize/native_check

# The same shapes with AVX-512 and AMX in software, without sanitizers, where SIMDe (Debian: libsimde-dev) is installed.
native-emulated:
	@$(CMAKE) -S . -B build/emulated -DFLYWEIGHT_EMULATE=ON
	@$(CMAKE) --build build/emulated -j 2
	build/emulated/native_check

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
