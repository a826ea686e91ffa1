# `make up` on a machine that has Python >= 3.11 and make, and nothing else, ends with a running
# stack; `make test` proves it. Everything else is `make help`.

PYTHON ?= python3
VENV   ?= .venv
N      ?= 3
UV     := uv==0.13.9
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := build/bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install up scale status down test test-faults check bench capacity faults soak storm reference docs screenshots lock clean

help: ## what there is to make
	@echo 'make ...'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Options of lbctl: LBCTL_PORT=8081 make up, or $(BIN)/lbctl up --help'

install: $(READY) ## the virtual environment, with locked dependencies and lbctl in it

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "lbctl needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1 | tail -n 1): install one, or make PYTHON=python3.13 ..." >&2; exit 3; }
	@echo 'installing into $(VENV)'
	@$(PYTHON) -m venv $(VENV) || { \
	  echo 'this Python cannot make a virtual environment (Debian: apt-get install python3-venv)' >&2; exit 3; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

up: install ## start everything, and print the addresses and the list
	@$(BIN)/lbctl up --install

scale: install ## to N backends: make scale N=5
	@$(BIN)/lbctl scale $(N)

status: install ## the processes and the backends
	@$(BIN)/lbctl status

down: install ## end and remove everything
	@$(BIN)/lbctl down

test: install ## every test this machine can run; the summary says what was left out, and why
	@status=0; \
	$(BIN)/python -m pytest -n auto tests/unit || status=1; \
	$(BIN)/python -m pytest $(filter-out tests/unit/,$(wildcard tests/*/)) || status=1; \
	exit $$status

check: install ## lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --quiet tests/unit/test_layers.py

bench: install $(PEERS)/.ready ## lbctl and its peers, side by side: make bench ARGS=--quick
	@$(BIN)/python -m benchmarks.compare $(ARGS)

capacity: install ## what one worker carries, and what connections and backends cost: make capacity ARGS=--quick
	@$(BIN)/python -m benchmarks.capacity $(ARGS)

faults: install $(PEERS)/.ready ## the same faults for lbctl, Traefik and HAProxy: make faults ARGS='--only lbctl'
	@$(BIN)/python -m benchmarks.faults $(ARGS)

test-faults: install $(PEERS)/.ready ## a short version of it, as a test
	@$(BIN)/python -m pytest -m slow tests/docker/test_faults.py

$(PEERS)/.ready: requirements/bench.txt
	@echo 'installing the peers into $(PEERS)'
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

soak: install ## an hour of mixed load while backends come and go: make soak ARGS=2m
	@$(BIN)/python -m benchmarks.soak $(or $(ARGS),1h)

storm: install ## mutated requests against a running proxy: make storm ARGS=1000000
	@$(BIN)/python -m benchmarks.storm $(ARGS)

reference: install ## docs/configuration.md and docs/cli.md, from src/lbctl
	@$(BIN)/python -m lbctl.cli.reference > docs/configuration.md
	@$(BIN)/python -m lbctl.cli.manual > docs/cli.md

docs: install ## the documents as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: install ## docs/images/*.png, of the pages as they are now (needs chromium and nginx)
	@LBCTL_SCREENSHOTS=1 $(BIN)/python -m pytest -q tests/browser -k 'pictures or who_answered'

lock: ## new versions of the dependencies, for every Python from 3.11 on
	@$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet '$(UV)'
	@for part in 'runtime pyproject.toml' 'dev pyproject.toml --group=dev' 'bench --group=bench' \
	  'fuzz --group=fuzz'; do \
	  set -- $$part; name=$$1; shift; \
	  echo "# Locked: \`make lock\` writes this file." > requirements/$$name.txt; \
	  build/lock/bin/uv pip compile "$$@" --upgrade --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --quiet >> requirements/$$name.txt || exit 1; \
	done

clean: ## remove what was made here, but not a running stack
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
