# make demo, test, lint, docs, wheel, torture, benchmark: each sets up all it needs, and reuses what is there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
SOURCES := setup.py pyproject.toml advrbd_plugin/ops/schemas.inc \
	$(shell find csrc -type f)
CHECK_PYTHON := import sys; ok = (3, 10) <= sys.version_info < (3, 14); sys.exit(None if ok else \
	"advrbd_plugin needs Python 3.10 to 3.13; choose one with: make PYTHON=python3.12")

.PHONY: all demo docs test test-processors lint wheel torture benchmark clean

all: $(BUILT)

# An environment that works is kept, whoever made it; one that was left half-made is made anew.
$(INSTALLED): requirements.txt
	$(BIN)/python -m pip --version > /dev/null 2>&1 || { $(PYTHON) -c '$(CHECK_PYTHON)' && $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

$(BUILT): $(INSTALLED) $(SOURCES)
	$(BIN)/python -m pip install --verbose --disable-pip-version-check --no-build-isolation --no-deps --editable . > $(VENV)/build.log 2>&1 \
		|| { tail -n 40 $(VENV)/build.log; exit 1; }
	@sed -n 's,^ *\(advrbd_plugin: \),\1,p' $(VENV)/build.log | awk '!seen[$$0]++'
	touch $@

demo: $(BUILT)
	$(BIN)/advrbd demo

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
# The tests whose result could depend on a processor's rounding.
ROUNDED := tests/defense tests/nn tests/cli

test: $(BUILT)
	$(PYTEST)

# The same seed trains another model on another processor; no test may mind.
test-processors: $(BUILT)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) $(ROUNDED)
	ADVRBD_TESTS_FLOAT32=1 $(PYTEST) $(ROUNDED)

lint: $(BUILT)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	git ls-files -z 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'csrc/*.inc' 'tests/emulation/*.h' \
		'tests/emulation/*.cpp' | xargs -0 $(BIN)/clang-format --dry-run -Werror

# The documentation site, in build/site; a link that leads nowhere is an error.
docs: $(BUILT)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# dist/advrbd_plugin-...-py3-none-....whl, for every Python and torch (docs/install.md).
wheel: $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .

# Long: hostile files, kills at random moments, ten times the cases of the ops, the kernels under sanitizers.
torture: $(BUILT)
	ADVRBD_TORTURE=1 $(PYTEST) tests/hostile/kills tests/emulation tests/ops/test_properties.py
	$(BIN)/python -m tests.hostile
	PYTHON=$(CURDIR)/$(BIN)/python sh tests/sanitize.sh

benchmark: $(BUILT)
	$(BIN)/python benchmarks/ops.py

clean:
	rm -rf $(VENV) build dist *.egg-info advrbd_plugin/*.so advrbd_plugin/_build.json
