# Everything here works on a fresh machine: the first target that needs .venv makes it.
#   make train ARGS="optimizer=sgd seed=1"      make test ARGS="tests/test_schedule.py -x"
#   make setup PYTHON=/opt/python3.13/bin/python3

VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=
PYTHON ?=
JOBS ?= 2
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The first of these that is 3.11 or newer and can make environments; a name may be there and not run (pyenv's shims).
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14 python
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all kill-test test-slurm test-slurm-all lint format lock clean

help:  ## Lists what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed  ## Makes .venv with the locked set, once; again when requirements.lock changes.
	@:

train: setup  ## Trains; ARGS are train.py's overrides. Without any: the embedded digits, some seconds.
	@$(RUN) train.py $(ARGS)

test: setup  ## Runs the test suite, doctests included; ARGS are pytest's.
	@$(RUN) -m pytest -n $(JOBS) $(ARGS)

test-all: setup  ## Runs the slow tests and the kill test too: everything that needs no GPU, Slurm or browser.
	@$(RUN) -m pytest -n $(JOBS) -m "not (gpu or slurm or browser)" $(ARGS)

kill-test: setup  ## Kills runs 200 times at random and compares every bit with runs left alone.
	@$(RUN) -m pytest -m kill $(ARGS)

test-slurm: setup  ## Runs one case of each kind on a real Slurm that it starts and takes down; needs root and Debian's packages.
	@$(RUN) -m pytest -m "slurm and not slow" tests/slurm $(ARGS)

test-slurm-all: setup  ## The same with what takes minutes: 30 preemptions, a dead node, the time limit, a dead driver.
	@$(RUN) -m pytest -m slurm tests/slurm $(ARGS)

lint: setup  ## Checks format, lint and types.
	@$(RUN) -m ruff format --check --quiet . || { echo "not formatted; type: make format"; exit 1; }
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m mypy

format: setup  ## Formats, and repairs what ruff can repair.
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

lock: setup  ## Writes requirements.lock anew from pyproject.toml's floors, for Python 3.11 and newer.
	@$(RUN) -m pip install --quiet uv
	@$(RUN) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --extra dev \
		--no-annotate --no-header --output-file requirements.lock pyproject.toml

clean:  ## Removes .venv and caches; outputs/ stays.
	@rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build src/*.egg-info
	@find . -name __pycache__ -type d -not -path './outputs/*' -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock pyproject.toml
	@python="$(PYTHON)"; \
	if [ -n "$$python" ] && ! "$$python" -c '$(USABLE)' 2>/dev/null; then \
		echo "PYTHON=$$python is no Python 3.11 or newer that can make environments (venv and ensurepip)" >&2; exit 1; \
	fi; \
	for candidate in $(CANDIDATES); do \
		[ -n "$$python" ] && break; \
		"$$candidate" -c '$(USABLE)' 2>/dev/null && python="$$candidate"; \
	done; \
	if [ -z "$$python" ]; then \
		echo "no Python 3.11 or newer with venv and ensurepip among: $(CANDIDATES)" >&2; \
		echo "install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make setup PYTHON=<path>" >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version): some minutes and 6 GB (CUDA's libraries are most of it), once."; \
	"$$python" -m venv $(VENV)
	@$(RUN) -m pip install --quiet --require-hashes -r requirements.lock
	@$(RUN) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
