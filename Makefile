# One command from a fresh clone:  make demo | make test
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
# Where torch is looked for besides PyPI: here its CPU build, which is much smaller.
# `make TORCH_INDEX= test` takes what PyPI offers (on Linux, the build for NVIDIA cards).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PLUGINS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard src/hepset_plugins/*/pyproject.toml)))
PIP     := $(BIN)/python -m pip --disable-pip-version-check
# Processes that run tests. Each computes in one thread, so that they do not share cores.
JOBS    ?= $(shell getconf _NPROCESSORS_ONLN)
test docs: export OMP_NUM_THREADS := 1
test docs: export OPENBLAS_NUM_THREADS := 1
test docs: export MKL_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint type docs bench clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Only the torch step sees the extra index, and it asks an unreachable one once.
$(VENV)/.installed: pyproject.toml $(PLUGINS:%=%/pyproject.toml) constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	$(PIP) install --retries 1 -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) install -c constraints.txt --group dev -e . $(PLUGINS:%=-e %)
	touch $@

install: $(VENV)/.installed  ## make .venv with hepset and every plugin, editable

demo: install  ## simulate, train, report: physics results in a few minutes
	$(BIN)/hepset run examples/quickstart/config.yaml
	$(BIN)/hepset run examples/ttbar/config.yaml

test: install  ## run every test, core and plugins, in parallel (JOBS=2, ARGS="-m 'not slow'")
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: install  ## check style and the layout of the repository
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/repo-review .

type: install  ## check types of core and plugins
	$(BIN)/mypy

docs: install  ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -b html docs docs/_build/html

bench: install  ## measure speed and memory, as ratios
	$(BIN)/python -m benchmarks

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist docs/_build
