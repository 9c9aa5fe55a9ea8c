# Everything starts here: `make run` opens the window, `make test` tests it. See README.md.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
UV_VERSION := 0.13.8
STAMP := $(VENV)/.installed

.PHONY: setup run test check bench lock system clean
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

bench: setup
	$(BIN)/python -m tests.benchmarks $(ARGS)

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

lock:
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header \
	    --extra test pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info
