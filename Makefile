PYTHON ?= .venv/bin/python
CMAKE ?= $(PYTHON) -m cmake

.PHONY: native native-sanitize

# Builds native/ and puts the extension among the sources, for working without reinstalling.
native:
	@$(CMAKE) -S . -B build/native -DCMAKE_BUILD_TYPE=Release -DFLYWEIGHT_STRICT=$(or $(STRICT),OFF) \
	  -DPython_EXECUTABLE=$$($(PYTHON) -c "import sys; print(sys.executable)") \
	  -Dnanobind_DIR=$$($(PYTHON) -m nanobind --cmake_dir) > build-native.log 2>&1 || (cat build-native.log; exit 1)
	@rm -f build-native.log
	@$(CMAKE) --build build/native -j 2
	@$(CMAKE) --install build/native --prefix src
