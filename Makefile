# Everything starts here: `make run` opens the window, `make test` tests it. See README.md.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
PEERS_HOME := tests/benchmarks/peers

.PHONY: setup run test check results bench bench-peers lock lock-peers system clean
.DEFAULT_GOAL := run

run: setup
	@$(BIN)/python -m workbench.first_run

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

results: setup
	$(BIN)/python -m tests.benchmarks.results $(ARGS)

bench: setup
	$(BIN)/python -m tests.benchmarks $(ARGS)

# The libraries that others use, in an environment of their own, with the engine of this checkout.
bench-peers: $(PEERS_STAMP)
	$(PEERS)/bin/python -m tests.benchmarks.peers $(ARGS)

setup: system $(STAMP)

# Qt's libraries, on Debian and its kin: installed when we may, named when we may not.
system:
	@PYTHON="$(PYTHON)" bash resources/system.sh

$(STAMP): requirements.lock pyproject.toml
	@test -e $@ || echo "First set-up: downloading about 6 GB into $(VENV) (PyTorch with CUDA). It takes minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/via/p' requirements.lock | grep -v via | sed '$$ s/ *\\$$//' > $(VENV)/uv.txt
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

$(PEERS_STAMP): $(PEERS_HOME)/requirements.lock pyproject.toml | setup
	@test -x $(PEERS)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(PEERS)
	$(BIN)/uv pip sync --quiet --python $(PEERS)/bin/python --require-hashes $<
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

lock:
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header \
	    --extra test --extra federated-ray pyproject.toml --output-file requirements.lock

# With the versions of the product's lock wherever both have a package.
lock-peers: setup
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --constraints requirements.lock --overrides $(PEERS_HOME)/overrides.txt \
	    $(PEERS_HOME)/requirements.in --output-file $(PEERS_HOME)/requirements.lock

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info
