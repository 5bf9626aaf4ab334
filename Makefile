# Everything sets up what it needs in .venv; nothing has to be installed by hand but Python >= 3.10, a C++20 compiler
# and make. `make demo MODEL=...` takes any checkpoint folder or hub id of an encoder; PYTHON= another interpreter.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc python -type f -not -name '*.so' -not -path '*/__pycache__/*')

.PHONY: demo test test-arm check format sanitize bench clean

demo: .venv/demo
	$(BIN)/qkv demo $(if $(MODEL),--model $(MODEL))

test: .venv/test
	$(BIN)/python -m pytest

# The kernels on 64-bit Arm: cross-compiled, and run by an emulator of a core that has every extension. Wants Debian's
# packages g++-aarch64-linux-gnu and qemu-user; the rest comes into build/arm. Left out: tests that need PyTorch, and
# the portable kernels, which `make test` tests. (The batches of
# the same-bits table take too long there.)
test-arm: .venv/test build/arm/fetched build/arm/tiny
	$(BIN)/cmake -S . -B build/arm/ext -G Ninja -DCMAKE_TOOLCHAIN_FILE=tools/arm/toolchain.cmake \
	  -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build build/arm/ext
	rm -rf build/arm/python && cp -r python build/arm/python && rm -f build/arm/python/qkv/_ext*.so
	cp build/arm/ext/_ext*.so build/arm/python/qkv/
	PYTHONPATH=build/arm/python QKV_TINY=build/arm/tiny \
	  tools/arm/python -m pytest tests/kernels tests/models/test_same_bits.py -n 2 --timeout 900 \
	  -k "not portable and not test_batch_and_threads and not test_families"

check: .venv/check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(find csrc -name '*.h' -o -name '*.cpp')

format: .venv/check
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $$(find csrc -name '*.h' -o -name '*.cpp')

# Kernels, loader and executor under AddressSanitizer and UndefinedBehaviorSanitizer. Python itself is not built with
# them, so their runtime is loaded first; Python's own leaks at exit are not reported. Left out: what reads the symbols
# of a plain build, and what measures memory, of which the sanitizers take their own share.
sanitize: .venv/test
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DQKV_SANITIZE=ON -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build build/sanitize
	rm -rf build/sanitize/python && cp -r python build/sanitize/python && cp build/sanitize/_ext*.so build/sanitize/python/qkv/
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitize/python \
	  $(BIN)/python -m pytest tests/kernels tests/graph tests/checkpoint tests/models tests/generation tests/packed --timeout 900 \
	  --deselect tests/kernels/test_symbols.py --deselect tests/models/test_loading.py

bench: .venv/bench
	$(BIN)/qkv bench
	$(BIN)/python -m benchmarks.numpy_kernels
	$(BIN)/python -m benchmarks.beside_torch

clean:
	rm -rf .venv build dist

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("qkv needs Python 3.10 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv .venv

.venv/installed: requirements/run.txt requirements/build.txt $(SOURCES) | .venv/bin/python
	@echo "Building qkv (about a minute)"
	$(PIP) -r requirements/run.txt -r requirements/build.txt
	$(PIP) --no-build-isolation --no-deps --force-reinstall .
	@touch $@

.venv/demo: requirements/demo.txt .venv/installed
	$(PIP) --no-deps --require-hashes -r requirements/demo.txt
	@touch $@

.venv/test: requirements/test.txt requirements/test-kernels.txt .venv/demo
	$(PIP) -r requirements/test.txt
	@touch $@

.venv/bench: requirements/bench.txt .venv/test
	$(PIP) -r requirements/bench.txt
	@touch $@

build/arm/fetched: tools/arm/fetch.sh requirements/run.txt requirements/test-kernels.txt | .venv/bin/python
	@{ command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64; } >/dev/null || \
	  { echo "Missing: apt-get install g++-aarch64-linux-gnu qemu-user"; exit 1; }
	tools/arm/fetch.sh $(BIN)/pip
	@touch $@

build/arm/tiny: $(wildcard tests/tiny/*.py) | .venv/test
	$(BIN)/python -m tests.tiny $@
	@touch $@

.venv/check: requirements/check.txt | .venv/bin/python
	$(PIP) -r requirements/check.txt
	@touch $@
