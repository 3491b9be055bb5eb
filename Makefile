PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
# One version of everything for every Python from the oldest on; no address, so that any mirror will do.
LOCK   := $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help run test test-deep setup lock format clean

help: ## Show these targets
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1@\2/p' Makefile | column -t -s @ 2>/dev/null || grep ' ## ' Makefile

run: $(VENV)/.runtime ## Start the gateway: make run ARGS="--port 9000 --data DIR"
	@exec $(BIN)/safelight serve $(ARGS)

test: $(VENV)/.dev $(VENV)/.clients ## Run every check, or some: make test STAGES="lint types"
	@$(BIN)/python -m tests.gate $(STAGES)

test-deep: $(VENV)/.dev $(VENV)/.clients ## Run the same tests with full counts and no time limit
	@SAFELIGHT_DEEP=1 $(BIN)/python -m tests.gate $(or $(STAGES),engines pure tests debug timing)

setup: $(VENV)/.dev ## Only prepare .venv for development

lock: $(VENV)/.bootstrap ## Resolve pyproject.toml anew; UPGRADE=--upgrade takes the newest versions
	$(LOCK) $(UPGRADE) pyproject.toml --group build --output-file requirements.lock
	$(LOCK) $(UPGRADE) pyproject.toml --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock
	@# Only where a build of torch without CUDA can be found; else the old one stays.
	-$(LOCK) $(UPGRADE) pyproject.toml --extra diffusers --group torch --constraint requirements-dev.lock --output-file requirements-diffusers.lock
	$(LOCK) $(UPGRADE) --group clients --output-file requirements-clients.lock
	$(LOCK) $(UPGRADE) --group litellm --output-file requirements-litellm.lock
	$(LOCK) $(UPGRADE) --group bootstrap --output-file requirements-bootstrap.lock

format: $(VENV)/.dev ## Format the code and apply the linter's safe fixes
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

clean: ## Remove .venv and everything a run left, but no data
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find gateway load protocol tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up in three steps. Each leaves a stamp and is repeated only when a file it was made from is newer than that. All
# only add, so `make run` and `make test` share one .venv. pip stands in where uv can't reach what pip can: a mirror or
# a certificate that only pip was told of.

install = $(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $(1) \
	|| $(BIN)/python -m pip install --quiet --require-hashes -r $(1)

$(VENV)/.bootstrap: requirements-bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("safelight needs Python 3.11 or newer: make PYTHON=...")'
	@echo "set-up: making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml $(VENV)/.bootstrap
	@echo "set-up: installing what the gateway needs"
	@$(call install,$<)
	@$(UV) pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "set-up: installing what the tests need"
	@$(call install,$<)
	@touch $@

# Clients that do not go together, each in an environment of its own. Where a newer Python has no wheels for one its tests
# are skipped.
apart = $(UV) venv --quiet --clear --python $(PYTHON) $(VENV)/$(1) \
	&& $(UV) pip install --quiet --python $(VENV)/$(1)/bin/python --only-binary :all: --require-hashes -r $(2) \
	|| echo "set-up: $(1) cannot be installed here"

$(VENV)/.clients: requirements-clients.lock requirements-litellm.lock $(VENV)/.bootstrap
	@echo "set-up: installing clients that tests run"
	@$(call apart,clients,requirements-clients.lock)
	@$(call apart,litellm,requirements-litellm.lock)
	@touch $@
