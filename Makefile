# Everything here works on a fresh machine: the first target that needs .venv makes it.
#   make train ARGS="optimizer=sgd seed=1"      make test ARGS="tests/test_schedule.py -x"
#   make setup PYTHON=/opt/python3.13/bin/python3

VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=
PYTHON ?=
JOBS ?= 2
DEVICE ?= cuda
MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# setup uses the first of these that is Python 3.11 or newer and has venv and ensurepip.
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14 python
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all kill-test test-browser test-slurm test-slurm-all test-gpu bench-gpu recipe-gpu pack-gpu lint format lock clean

help:  ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed  ## Makes .venv with the pinned packages, once; again when requirements.lock changes.
	@:

train: setup  ## Trains; ARGS are train.py's overrides. Without ARGS: handwritten digits, some seconds.
	@$(RUN) train.py $(ARGS)

test: setup  ## Runs the test suite, doctests included; ARGS are pytest's.
	@$(RUN) -m pytest -n $(JOBS) $(ARGS)

test-all: setup  ## Runs the slow tests and the kill test as well: all that need no GPU, Slurm or browser.
	@$(RUN) -m pytest -n $(JOBS) -m "not (gpu or slurm or browser)" $(ARGS)

kill-test: setup  ## Kills runs 200 times at random; each continues and must end with the bits of a run left alone.
	@$(RUN) -m pytest -m kill $(ARGS)

test-browser: setup  ## Tests the report in headless Chromium, which must be installed.
	@$(RUN) -m pytest -m browser tests/browser $(ARGS)

test-slurm: setup  ## Tests one job of each kind on a real Slurm, which it starts and stops; needs root and Debian.
	@$(RUN) -m pytest -m "slurm and not slow" tests/slurm $(ARGS)

test-slurm-all: setup  ## The same, and what takes minutes: 30 preemptions, a dead node, the time limit.
	@$(RUN) -m pytest -m slurm tests/slurm $(ARGS)

# With PYTHON=python3 these three take that interpreter and its torch as they are, and what it lacks from .gpu/pack; without
# it, .venv. DEVICE=cpu tries the same at toy size.
ON_GPU = $(if $(PYTHON),,$(MAKE) setup && )site="$$($(or $(PYTHON),$(RUN)) benchmarks/gpu_ready.py --device $(DEVICE))" && \
	PYTHONPATH="$(CURDIR)/src:$$site" $(or $(PYTHON),$(RUN))

test-gpu: JOBS = $(if $(filter cpu,$(DEVICE)),2,4)
test-gpu:  ## Runs the tests that need a CUDA device, under 5 minutes; PYTHON=python3 takes that Python with its own torch.
	@$(ON_GPU) -m pytest -n $(JOBS) $(if $(filter cpu,$(DEVICE)),,-m gpu) tests/gpu $(ARGS)

bench-gpu:  ## Measures speed on a CUDA device, under 8 minutes; writes to benchmarks/results.
	@$(ON_GPU) benchmarks/gpu.py --device $(DEVICE) $(ARGS)

recipe-gpu:  ## Trains the recipes on a CUDA device for 8 minutes; each call continues where the last one ended.
	@$(ON_GPU) benchmarks/gpu_recipes.py --device $(DEVICE) $(ARGS)

pack-gpu: setup  ## Packs wheels and Fashion-MNIST into .gpu/pack, for these three on a machine without a network.
	@$(RUN) benchmarks/gpu_pack.py $(ARGS)

lint: setup  ## Checks format, lint and types.
	@$(RUN) -m ruff format --check --quiet . || { echo "not formatted; type: make format"; exit 1; }
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m mypy

format: setup  ## Formats, and repairs what ruff can repair.
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

lock: setup  ## Writes requirements.lock again, from the lowest versions in pyproject.toml.
	@$(RUN) -m pip install --quiet uv
	@$(RUN) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --extra dev \
		--no-annotate --no-header --output-file requirements.lock pyproject.toml

clean:  ## Removes .venv, .gpu and caches; outputs/ stays.
	@rm -rf $(VENV) .gpu .pytest_cache .ruff_cache .mypy_cache build src/*.egg-info
	@find . -name __pycache__ -type d -not -path './outputs/*' -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock pyproject.toml
	@python="$(PYTHON)"; \
	if [ -n "$$python" ] && ! "$$python" -c '$(USABLE)' 2>/dev/null; then \
		echo "PYTHON=$$python is no Python 3.11 or newer with venv and ensurepip" >&2; exit 1; \
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
	echo "setup 1/3: makes $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV)
	@echo "setup 2/3: installs the packages of requirements.lock, once. Some minutes and 6 GB, mostly CUDA's libraries."
	@echo "           pip prints nothing for a minute or two after \"Installing collected packages\"."
	@if [ -t 1 ]; then bar=on; else bar=off; fi; \
	$(RUN) -m pip install --progress-bar $$bar --require-hashes -r requirements.lock
	@echo "setup 3/3: installs plainloop itself, as a link to src/"
	@$(RUN) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup is done; type: . $(VENV)/bin/activate"
