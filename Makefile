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
# The pythons of Colab's and Kaggle's images, for test-platforms.
COLAB_PYTHON ?= python3.13
KAGGLE_PYTHON ?= python3.12
# Arguments for pytest, e.g. make test ARGS="tests/data -k faces".
ARGS ?=

comma := ,
ACCEL_EXTRA = $(if $(ACCEL),$(comma)$(ACCEL))
# The sizes are those with JAX for CPUs.
PLUS = $(if $(ACCEL), and the libraries of $(ACCEL))
# What the targets need, in one environment, which grows: what runs need, then the tests, then lint and docs.
DEMO_EXTRAS = faces,hub,report,tensorboard
SETUP_INPUTS = pyproject.toml constraints.txt softbio_jax/__init__.py
# The tested versions are for CPUs; with an accelerator, pip chooses the JAX that its image needs.
# CONSTRAINTS= installs the newest version of everything.
CONSTRAINTS ?= $(if $(ACCEL),,constraints.txt)
CONSTRAIN = $(addprefix --constraint ,$(CONSTRAINTS))
# pip shows its progress on a terminal; elsewhere, a log has one line per phase.
QUIET = quiet="--quiet --quiet"; if [ -t 1 ]; then quiet=; fi
# Most modules are never imported; python compiles the others when they are.
PIP = -m pip --disable-pip-version-check $$quiet install --no-compile
PYTEST = -m pytest -n $(TEST_WORKERS) --dist loadfile

.PHONY: help demo test test-parity test-parity-long test-app test-long test-platforms lint format docs setup clean \
  check-python

help:
	@echo "make demo         set up and run the main job on rendered faces (DEMO_DIR=$(DEMO_DIR))"
	@echo "make test         set up and run the tests (ARGS=\"tests/data -k faces\" selects some)"
	@echo "make test-parity  compare with torch, timm and peft, in $(PARITY_VENV)"
	@echo "make test-parity-long  training of every method compared with torch for 100 steps"
	@echo "make test-app     the web page in a browser, LiteRT and docs/export.md, in $(APP_VENV)"
	@echo "make test-long    the slow tests: interruptions, several processes, notebooks, pages"
	@echo "make test-platforms  install into environments like Colab's ($(COLAB_PYTHON)) and Kaggle's ($(KAGGLE_PYTHON)) and run there"
	@echo "make docs         build the pages and the API reference, in build/site"
	@echo "make lint         ruff and mypy;  make format  applies the fixes of ruff"
	@echo "make setup        what runs need, in $(VENV), without running the demo"
	@echo "make clean        remove environments, caches and the demo's output"
	@echo "ACCEL=tpu or ACCEL=cuda13 installs that build of JAX; PYTHON=python3.13 picks a python"

demo: $(VENV)/.ready-demo
	$(PY) scripts/demo.py --out=$(DEMO_DIR)

test: $(VENV)/.ready-test
	$(PY) $(PYTEST) $(ARGS)

test-long: $(VENV)/.ready-dev
	$(PY) $(PYTEST) -m long $(ARGS)

test-platforms: $(VENV)/.ready-test
	COLAB_PYTHON=$(COLAB_PYTHON) KAGGLE_PYTHON=$(KAGGLE_PYTHON) $(PY) $(PYTEST) -m platform $(ARGS)

test-parity: $(PARITY_VENV)/.ready
	$(PARITY_PY) $(PYTEST) -m "parity and not long" $(ARGS)

test-parity-long: $(PARITY_VENV)/.ready
	$(PARITY_PY) $(PYTEST) -m "parity and long" $(ARGS)

test-app: $(APP_VENV)/.ready
	$(APP_PY) $(PYTEST) -m app $(ARGS)

lint: $(VENV)/.ready-dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy $(wildcard softbio_jax scripts configs)

format: $(VENV)/.ready-dev
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

setup: $(VENV)/.ready-demo

check-python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no $(PYTHON) on the PATH; install python >= 3.11 or pass PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) -V 2>/dev/null) || found="not a python that starts"; \
	  echo "error: $(PYTHON) is $$found, expected python >= 3.11;" \
	       "fix: pass a newer one, e.g. make test PYTHON=python3.12" >&2; exit 1; }

# $(call environment,FOLDER,CONTENTS,SIZE): announces the packages, and makes an environment without pip a new one.
define environment
	@echo "Setting up $(1) with $(2): $(3), a few minutes the first time"
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1)
endef

# $(call finished,FOLDER,SMALLER): shows the size as it is; SMALLER are the stamps of smaller sets, which it contains.
define finished
	@echo "Set up $(1): $$(du -sh $(1) | cut -f1)B"
	@touch $(addprefix $(1)/,$(2)) $@
endef

$(VENV)/.ready-demo: $(SETUP_INPUTS) | check-python
	$(call environment,$(VENV),what runs need,1.2 GB$(PLUS))
	@$(QUIET); $(PY) $(PIP) $(CONSTRAIN) --editable ".[$(DEMO_EXTRAS)$(ACCEL_EXTRA)]"
	$(call finished,$(VENV))

$(VENV)/.ready-test: $(SETUP_INPUTS) | check-python
	$(call environment,$(VENV),what runs and tests need,1.4 GB$(PLUS))
	@$(QUIET); $(PY) $(PIP) $(CONSTRAIN) --editable ".[test$(ACCEL_EXTRA)]"
	$(call finished,$(VENV),.ready-demo)

$(VENV)/.ready-dev: $(SETUP_INPUTS) | check-python
	$(call environment,$(VENV),everything for development,1.6 GB$(PLUS))
	@$(QUIET); $(PY) $(PIP) $(CONSTRAIN) --editable ".[dev$(ACCEL_EXTRA)]"
	$(call finished,$(VENV),.ready-demo .ready-test)

# PyTorch comes with large packages and other pins, so it has a separate environment.
# Local wheel folders are ignored: a CPU-only torch from one does not match torchvision.
$(PARITY_VENV)/.ready: $(SETUP_INPUTS) | check-python
	$(call environment,$(PARITY_VENV),torch and the tests,7 GB)
	@$(QUIET); env -u PIP_FIND_LINKS $(PARITY_PY) $(PIP) $(CONSTRAIN) --editable ".[test,parity]"
	$(call finished,$(PARITY_VENV))

# Gradio needs an older Pillow, and LiteRT's converter older helper libraries.
$(APP_VENV)/.ready: $(SETUP_INPUTS) constraints-app.txt | check-python
	$(call environment,$(APP_VENV),gradio$(comma) LiteRT and the tests,2.1 GB)
	@$(QUIET); $(APP_PY) $(PIP) $(if $(CONSTRAINTS),--constraint constraints-app.txt) --editable ".[app,litert,test]"
	$(call finished,$(APP_VENV))

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache build *.egg-info $(DEMO_DIR)
	find softbio_jax scripts configs tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
