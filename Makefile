# The commands that people and scripts rely on. Everything runs from a fresh clone; the first call makes .venv.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first interpreter of a supported version that really starts (a pyenv shim may exist and yet not run).
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: several processes share the cores, and two OpenMP pools on the same cores are far slower than one thread each.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export PATH := $(CURDIR)/$(BIN):$(PATH)

DATA ?=
ROUNDS ?=
MONITORING ?=
BUNDLE ?= dist/bundle
# Quoted for the shell, because a folder may have spaces; a leading ~, which shells differ in expanding, is expanded here.
QUOTED_DATA := "$(patsubst ~/%,$(HOME)/%,$(DATA))"
DEMO_ARGS := $(if $(DATA),--data $(QUOTED_DATA)) $(if $(ROUNDS),--rounds $(ROUNDS))

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 found; install one, or call make PYTHON=/path/to/python3.11" >&2; exit 3; }
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@# An environment without pip was interrupted while it was made, or made where python3-venv is missing: venv then completes it.
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[node,teacher,study,dev]'
	@touch $@

install: $(VENV)/.installed  ## make .venv with the pinned versions

demo: install  ## the main job: teacher, distillation, four sites and a coordinator; DATA=DIR for real images
	@fedmentor demo --out runs/demo $(DEMO_ARGS)

# Environment for the script that drives the containers; it needs Python and an engine, no .venv.
CONTAINERS := DATA=$(QUOTED_DATA) ROUNDS="$(ROUNDS)" MONITORING="$(MONITORING)" $(or $(PYTHON),python3) deploy/containers.py

images:  ## build the container images and print their sizes
	@$(CONTAINERS) images

up:  ## the same job as containers with Docker Compose; DATA=DIR for real images, MONITORING=1 for Prometheus with alerts
	@$(CONTAINERS) up

down:  ## remove the containers, networks and volumes of make up
	@$(CONTAINERS) down

logs:  ## follow what the containers say
	@$(CONTAINERS) logs

token:  ## print the token of make up's teacher
	@$(CONTAINERS) token

certificate:  ## print the certificate of make up's teacher, for curl --cacert
	@$(CONTAINERS) certificate

bundle: install  ## one folder for a machine without a network: wheels, images, teacher, installer; BUNDLE=DIR
	@python deploy/bundle.py $(BUNDLE)

test-containers: install  ## make up for real: digests, kills, networks, locks, alerts, kit, bundle (10 to 15 minutes; needs an engine)
	@pytest -m containers tests/containers

# Whole files go to either of two processes: a file's tests share what it started.
test: install  ## every test that needs no container engine and no GPU
	@pytest -n 2 --dist loadfile

lint: install  ## style, types, arrows between packages, drift of generated files
	@ruff format --check . && ruff check .
	@mypy
	@lint-imports
	@$(MAKE) --no-print-directory check-stubs

stubs: install  ## regenerate fedmentor/wire/v1 from proto/
	@python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
		proto/fedmentor/wire/v1/*.proto

check-stubs: install
	@rm -rf build/stubs && mkdir -p build/stubs
	@python -m grpc_tools.protoc -I proto --python_out=build/stubs --grpc_python_out=build/stubs \
		--mypy_out=quiet:build/stubs --mypy_grpc_out=quiet:build/stubs proto/fedmentor/wire/v1/*.proto
	@diff -r -x __pycache__ -x __init__.py build/stubs/fedmentor/wire/v1 fedmentor/wire/v1 \
		|| { echo "error: the generated stubs are stale; run make stubs" >&2; exit 1; }

schema: install  ## regenerate the JSON schemas in docs/
	@python -m study.report.schema docs/report.schema.json
	@python -m coordinator.dashboard.schema docs/dashboard.schema.json

# Peers that benchmarks are run beside; in an environment of their own, because their pinned versions are not ours.
PEERS := .venv-peers
$(PEERS)/.installed: benchmarks/peers.txt
	$(PEERS)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@

bench: install $(PEERS)/.installed  ## every performance table; DATA=DIR adds the tables of quality on real images
	python benchmarks/aggregation.py
	python benchmarks/teacher.py --sam-med2d
	OMP_NUM_THREADS=1 python benchmarks/teacher_precision.py $(if $(DATA),--data $(QUOTED_DATA))
	python benchmarks/student.py $(if $(DATA),--data $(QUOTED_DATA))
	python benchmarks/dp.py
	python benchmarks/secagg.py
	python benchmarks/secagg.py --flower $(PEERS)/bin/python
	python benchmarks/robustness.py
	$(if $(DATA),python benchmarks/teacher_quality.py $(QUOTED_DATA) --images 103)
	$(if $(DATA),python benchmarks/distillation.py $(QUOTED_DATA))

faults: install  ## the long fault campaigns; their counts are printed
	FEDMENTOR_KILL_RUNS=200 FEDMENTOR_FUZZ_EXECUTIONS=1000000 FEDMENTOR_LEDGER_KILLS=1000 FEDMENTOR_DP_TIGHT=200 \
		pytest -s tests/faults tests/unit/fedmentor/privacy
	FEDMENTOR_SECAGG_CASES=10000 pytest --timeout 3600 tests/unit/fedmentor/secagg
	FEDMENTOR_TEACHER_KILLS=50 pytest -s --timeout 4000 tests/faults/test_teacher_kills.py
	FEDMENTOR_SIMULATION_EXAMPLES=2000 pytest --timeout 3600 tests/simulation
	FEDMENTOR_AUDIT_MUTATIONS=10000 pytest -s --timeout 3600 tests/simulation/test_audit_mutations.py

constraints:  ## resolve the pinned versions again: make constraints PYTHONS="python3.10 python3.11 python3.12"
	$(PYTHON) deploy/constraints.py $(PYTHONS) > constraints.new && mv constraints.new constraints.txt

clean:  ## remove everything that can be made again
	rm -rf $(VENV) $(PEERS) build runs .mypy_cache .ruff_cache .import_linter_cache

.PHONY: help install images up down logs token certificate bundle test-containers demo test lint stubs check-stubs schema bench faults constraints clean
