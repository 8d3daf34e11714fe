# Two commands on a bare machine with python >= 3.11 and make:
#   make demo    sets up an environment and runs the main job (minutes on a CPU)
#   make test    sets up and passes the tests
# ACCEL=tpu or ACCEL=cuda13 on any of them installs the accelerator build of JAX.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
ACCEL ?=
# With an accelerator the environment has another name, so that both can exist.
VENV ?= .venv$(if $(ACCEL),-$(ACCEL))
PARITY_VENV ?= .venv-parity
APP_VENV ?= .venv-app
PY = $(VENV)/bin/python
PARITY_PY = $(PARITY_VENV)/bin/python
APP_PY = $(APP_VENV)/bin/python

DEMO_DIR ?= runs/demo
TEST_WORKERS ?= 2
# The python of Colab's images, for test-platforms.
PLATFORM_PYTHON ?= python3.13
# Arguments for pytest, e.g. make test ARGS="tests/data -k faces".
ARGS ?=

comma := ,
EXTRAS = dev$(if $(ACCEL),$(comma)$(ACCEL))
SETUP_INPUTS = pyproject.toml constraints.txt softbio_jax/__init__.py
# The tested versions are for CPUs; with an accelerator, pip chooses the JAX that its image needs.
# CONSTRAINTS= installs the newest version of everything.
CONSTRAINTS ?= $(if $(ACCEL),,constraints.txt)
CONSTRAIN = $(addprefix --constraint ,$(CONSTRAINTS))
PIP = -m pip --disable-pip-version-check --quiet --quiet install
PYTEST = -m pytest -n $(TEST_WORKERS) --dist loadfile

.PHONY: help demo test test-parity test-app test-long test-platforms lint format docs setup clean check-python

help:
	@echo "make demo         set up and run the main job on rendered faces (DEMO_DIR=$(DEMO_DIR))"
	@echo "make test         set up and run the tests (ARGS=\"tests/data -k faces\" selects some)"
	@echo "make test-parity  compare with torch, timm and peft, in $(PARITY_VENV)"
	@echo "make test-app     the web page in a browser, LiteRT and docs/export.md, in $(APP_VENV)"
	@echo "make test-long    the slow tests: interruptions, several processes, notebooks, pages"
	@echo "make test-platforms  install into environments like Colab's (PLATFORM_PYTHON=$(PLATFORM_PYTHON)) and run there"
	@echo "make docs         build the pages and the API reference, in build/site"
	@echo "make lint         ruff and mypy;  make format  applies the fixes of ruff"
	@echo "make clean        remove environments, caches and the demo's output"
	@echo "ACCEL=tpu or ACCEL=cuda13 installs that build of JAX; PYTHON=python3.13 picks a python"

demo: $(VENV)/.ready
	$(PY) scripts/demo.py --out=$(DEMO_DIR)

test: $(VENV)/.ready
	$(PY) $(PYTEST) $(ARGS)

test-long: $(VENV)/.ready
	$(PY) $(PYTEST) -m long $(ARGS)

test-platforms: $(VENV)/.ready
	PLATFORM_PYTHON=$(PLATFORM_PYTHON) $(PY) -m pytest -m platform $(ARGS)

test-parity: $(PARITY_VENV)/.ready
	$(PARITY_PY) -m pytest -m parity $(ARGS)

test-app: $(APP_VENV)/.ready
	$(APP_PY) $(PYTEST) -m app $(ARGS)

lint: $(VENV)/.ready
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy $(wildcard softbio_jax scripts configs)

format: $(VENV)/.ready
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

setup: $(VENV)/.ready

check-python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no $(PYTHON) on the PATH; install python >= 3.11 or pass PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), expected python >= 3.11;" \
	       "fix: pass a newer one, e.g. make test PYTHON=python3.12" >&2; exit 1; }

$(VENV)/.ready: $(SETUP_INPUTS) | check-python
	@echo "Setting up $(VENV) (about 1 GB, a few minutes the first time)..."
	$(PYTHON) -m venv $(VENV)
	$(PY) $(PIP) $(CONSTRAIN) --editable ".[$(EXTRAS)]"
	@touch $@

# PyTorch comes with large packages and other pins, so it has a separate environment.
# Local wheel folders are ignored: a CPU-only torch from one does not match torchvision.
$(PARITY_VENV)/.ready: $(SETUP_INPUTS) | check-python
	@echo "Setting up $(PARITY_VENV) with torch (several GB the first time)..."
	$(PYTHON) -m venv $(PARITY_VENV)
	env -u PIP_FIND_LINKS $(PARITY_PY) $(PIP) $(CONSTRAIN) --editable ".[dev,parity]"
	@touch $@

# Gradio needs an older Pillow, and LiteRT's converter older helper libraries.
$(APP_VENV)/.ready: $(SETUP_INPUTS) constraints-app.txt | check-python
	@echo "Setting up $(APP_VENV) with gradio and LiteRT (about 2 GB, a few minutes)..."
	$(PYTHON) -m venv $(APP_VENV)
	$(APP_PY) $(PIP) $(if $(CONSTRAINTS),--constraint constraints-app.txt) --editable ".[app,litert,test]"
	@touch $@

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache build *.egg-info $(DEMO_DIR)
	find softbio_jax scripts configs tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
