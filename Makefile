# Two commands do all the set-up: `make demo` and `make test`. Needs Python 3.11 or newer, pip and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
WORKERS ?= 2
OUTPUT ?= runs/demo

.PHONY: help demo test unit test-ray check lint types contracts docs coverage-zoo shrink-zoo format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Each stamp is renewed when what it was made from changes; a second call re-uses the environment.
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sparsewood needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) torch -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) torch -e '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## train, prune and compare on real data; writes runs/demo/
	$(BIN)/sparsewood demo --output $(OUTPUT)

test: $(VENV)/.dev  ## all tests and doctests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

unit: $(VENV)/.dev  ## the quick tests only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m 'not slow'

# An environment of its own, since Ray is half a gigabyte that nothing else needs.
.venv-ray/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[demo,ray,testing]' pytest-timeout
	@touch $@

test-ray: .venv-ray/.made  ## sweeps on a Ray cluster of this machine: the same numbers, workers and drivers killed
	OMP_NUM_THREADS=1 .venv-ray/bin/python -m pytest --timeout 900 tests/run/test_sweep_ray.py

docs: $(VENV)/.dev  ## the documentation, built into site/, every link checked
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/hooks/links.py site

lint: $(VENV)/.dev  ## style and declared dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry src

types: $(VENV)/.dev  ## static types
	$(BIN)/basedpyright --warnings

contracts: $(VENV)/.dev  ## which package may import which
	$(BIN)/lint-imports

coverage-zoo: $(VENV)/.dev  ## which networks trace() covers; ZOO='--only timm:*' for a part
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo.py $(ZOO)

shrink-zoo: $(VENV)/.dev  ## half of the units of those networks, removed and proven; ZOO='--only timm:*' for a part
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/shrink_zoo.py $(ZOO)

check: lint types contracts test  ## what CI runs

format: $(VENV)/.dev  ## rewrite files in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what was made here
	rm -rf $(VENV) .venv-ray runs site .pytest_cache .ruff_cache build dist
