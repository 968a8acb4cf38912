# Everything from a clean clone: the first target that needs .venv makes it, once.
#
#   make demo      a whole network on this machine trains a model
#   make test      all checks and tests
#   make lint      only the checks
#   make sim       simulated networks; SEED=n replays one, VERBOSE=1 tells all that happens in it
#   make sim-campaign    N= seeds from FIRST= on in JOBS= processes; SIM=consensus, here and above: consensus alone
#   make sweep     train under many settings of this machine: exact ends in one digest, float32 in several
#   make conformance-aarch64    the golden digests on aarch64 under emulation; QUICK=1 for a worker's checks alone
#   make soak     real validators under load are killed and restarted for MINUTES=5; SEED=n kills in the same order
#   make docs      write docs/CONFIG.md again after changing the configuration
#   make image     build the container image; BASE=image, EXTRAS= for one without the learner
#   make wheels    fetch what the image needs into build/wheels, for an engine that reaches no registry
#   make testnet-containers    the demo's network as containers, for real; needs a container engine
#   make clean     remove what make made

PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$each; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?=
TESTS ?=
SEED ?=
MINUTES ?= 5
N ?= 50
FIRST ?= 0
JOBS ?= 1
VERBOSE ?=
QUICK ?=
SIM ?= whole
SIMULATOR = tests.sim.$(if $(filter consensus,$(SIM)),consensus_sim,run)
BASE ?= python:3.11-slim-bookworm
EXTRAS ?= learner
IMAGE ?= flnode

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint sim sim-campaign soak sweep conformance-aarch64 contracts docs image wheels testnet-containers clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "flnode needs Python 3.11 or newer; name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		hatchling setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		--constraint constraints.txt --editable '.[learner,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/flnode demo $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/test_style.py

sim: $(READY)
	$(BIN)/python -m $(SIMULATOR) $(if $(SEED),--seed $(SEED) $(if $(filter whole,$(SIM)),$(if $(VERBOSE),--verbose)),--seeds $(N))

sim-campaign: $(READY)
	$(BIN)/python -m $(SIMULATOR) --seeds $(N) --first $(FIRST) $(if $(filter whole,$(SIM)),--jobs $(JOBS))

sweep: $(READY)
	$(BIN)/python -P -m tests.learner.sweep --out build/sweep.txt

conformance-aarch64: $(READY)
	$(BIN)/python -P -m tests.learner.aarch64 $(if $(QUICK),--quick)

soak: $(READY)
	$(BIN)/python -m tests.network.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

contracts: $(READY)
	$(BIN)/python -m chain.contracts.build

docs: $(READY)
	$(BIN)/python -m node.config_doc > docs/CONFIG.md.new
	mv docs/CONFIG.md.new docs/CONFIG.md

image:
	docker build --tag $(IMAGE) --build-arg BASE=$(BASE) --build-arg EXTRAS=$(EXTRAS) \
		$(if $(wildcard build/wheels),--build-arg PIP_NO_INDEX=1) .

wheels: $(READY)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --wheel-dir build/wheels \
		--constraint constraints.txt hatchling '.[$(EXTRAS)]'
	rm -f build/wheels/flnode-*.whl

testnet-containers: $(READY) image
	FLNODE_IMAGE=$(IMAGE) $(BIN)/python -m tests.containers.testnet

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
