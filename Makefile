# One word per chore; the same words in CI. Needs Python 3.11 to 3.13 and make, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pip reads PIP_FIND_LINKS, uv reads UV_FIND_LINKS: honour either, and only ask for torch's own
# index where no folder of wheels was named.
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
TORCH_BACKEND := $(if $(UV_FIND_LINKS),,--torch-backend=auto)
JOBS ?= 2

.PHONY: help demo test test-all check format bench clean
help:  ## list the words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

define install
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	|| { echo "make: Python 3.11 to 3.13 is needed, got $$($(PYTHON) --version); set PYTHON=python3.11"; exit 1; }
@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
@$(BIN)/python -m pip install --quiet "uv>=0.8"
@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(TORCH_BACKEND) -e "$(1)"
@touch $@
endef

$(READY): pyproject.toml
	$(call install,.[dev])

$(VENV)/.ready-to-answer: pyproject.toml
	$(call install,.)

# What answering needs is less than what developing needs: quicker to set up, quicker to start.
demo: $(or $(wildcard $(READY)),$(VENV)/.ready-to-answer)  ## set up and answer a spoken question
	@$(BIN)/python runs/demo.py

test: $(READY)  ## set everything up and pass the tests (minutes, CPU, no network)
	@$(BIN)/python -m pytest -n $(JOBS) -m "not slow and not network"

test-all: $(READY)  ## the slow tests too
	@$(BIN)/python -m pytest -n $(JOBS)

check: $(READY)  ## format, lint, types, import contracts, file sizes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/test_house.py

format: $(READY)  ## rewrite files in the house style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)  ## a small CPU run of the benchmarks
	@$(BIN)/python -m benchmarks.run --preset tiny --quick

clean:  ## forget the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache demo
