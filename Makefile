# make serve              set everything up, then serve SmolLM2-135M-Instruct on port 3000
# make serve ARGS="..."   the same with flags of `tgi serve`
# make test               set everything up, then run all checks and tests
# make sanitize           run the tests of the native kernels under AddressSanitizer and UBSan (needs g++ and cmake)
# make clean              remove what these made
#
# Needs Python 3.11 to 3.13 with its venv module, a C++ compiler, make, and a package index that pip can reach.
# Each step leaves a stamp in .venv/stamps, so a second run starts at once.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
# On Linux a plain `pip install torch` fetches the CUDA build. For the CPU build, name the index that carries it:
# make serve TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin
STAMPS := .venv/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
NATIVE := CMakeLists.txt $(wildcard tgi/kernels/native/*)

define TEST_REQUIREMENTS
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["test"], sep="\n")
endef
export TEST_REQUIREMENTS

.PHONY: serve test lint sanitize clean
.DELETE_ON_ERROR:

serve: $(STAMPS)/package
	@$(BIN)/tgi serve $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMPS)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sanitize: $(STAMPS)/tests
	cmake -S . -B build/sanitize -DTGI_SANITIZE=ON -DCMAKE_CXX_COMPILER=g++
	cmake --build build/sanitize
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		$(BIN)/python -m pytest --capture=sys tests/kernels --library build/sanitize/libtgi_cpu.so $(ARGS)

clean:
	rm -rf .venv build

$(STAMPS)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found" >&2; \
		echo "hint: install one, or name it: make serve PYTHON=/path/to/python3.11" >&2; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
		echo "error: no C++ compiler found" >&2; echo "hint: on Debian: apt-get install g++" >&2; exit 1; }
	@echo "[1/3] virtual environment in .venv ($(PYTHON))"
	@$(PYTHON) -m venv .venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/python constraints.txt
	@echo "[2/3] torch: the largest part, some minutes where the network is slow"
	@$(PIP) install $(TORCH) -c constraints.txt
	@touch $@

$(STAMPS)/package: $(STAMPS)/torch pyproject.toml $(NATIVE)
	@echo "[3/3] tgi and what it needs; compiles the kernels, about a minute"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(STAMPS)/tests: $(STAMPS)/package
	@echo "[+] what the tests need"
	@$(BIN)/python -c "$$TEST_REQUIREMENTS" > $@.txt
	@$(PIP) install -c constraints.txt -r $@.txt
	@touch $@
