# Everything that is done to this project is a verb here; `make` alone lists them.
# A fresh clone needs Python 3.11 or newer and make: the verbs make .venv themselves.

# The first of these that runs and is new enough makes .venv. To choose: make setup PYTHON=python3.13
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# What is given to the program that a verb runs: make test ARGS='-k frames -x'
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
EXTRAS := server,test,lint
PIP := python -m pip --disable-pip-version-check --no-input
# Each holds the path that .venv was made for, and is as old as the last installation: of everything, and of what
# serving needs, which takes a newcomer a fifth of the time.
STAMP := $(VENV)/.installed
SERVING := $(VENV)/.serving

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test test-unit test-all lint types cov bench docs references format constraints clean

help:  ## list these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "More for the program behind a verb: make test ARGS='-k frames'; another Python: make setup PYTHON=python3.13"

setup: $(STAMP)  ## make .venv and install everything into it; nothing to do when it is current

serve: $(SERVING)  ## run a server in development mode, on this machine only; installs no more than that needs
	@$(BIN)/moorage serve $(ARGS)

test: $(STAMP)  ## run the tests, all of them
	$(BIN)/pytest $(ARGS)

test-unit: $(STAMP)  ## run the fast tests: no root, no network, no installation, no process
	$(BIN)/pytest tests/unit $(ARGS)

test-all: $(STAMP)  ## run those on every supported Python that is installed
	.ci/test-all $(ARGS)

lint: $(STAMP)  ## check style, formatting, spelling, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo --no-cache

types: $(STAMP)  ## check types, strictly
	$(BIN)/pyright $(ARGS)

cov: $(STAMP)  ## run the tests, report branch coverage (also to htmlcov/), and fail below the floor
	$(BIN)/pytest --cov --cov-report=term --cov-report=html $(ARGS)

bench: $(STAMP)  ## measure against other servers; ARGS choose scenarios
	$(BIN)/python -m bench $(ARGS)

docs: $(STAMP)  ## check that the pages tell the truth: links, file names, verbs, printed examples
	$(BIN)/python docs/check.py
	$(BIN)/python docs/public_reference.py --check
	$(BIN)/python docs/settings_reference.py --check

references: $(STAMP)  ## write the pages that are made of the code: settings, and public names
	$(BIN)/python docs/public_reference.py
	$(BIN)/python docs/settings_reference.py

format: $(STAMP)  ## mend what lint can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(STAMP)  ## write constraints.txt anew: what pyproject.toml needs, no more (UPGRADE=1: the newest)
	$(BIN)/python -m venv --clear .cache/constraints
	.cache/constraints/bin/$(PIP) install --quiet $(if $(UPGRADE),,-c constraints.txt) -e '.[$(EXTRAS)]'
	@{ sed -n '/^#/p' constraints.txt; .cache/constraints/bin/$(PIP) list --format=freeze \
		--exclude-editable --exclude pip | LC_ALL=C sort -f; } > .cache/constraints.txt
	@mv .cache/constraints.txt constraints.txt
	@rm -rf .cache/constraints
	@echo "constraints.txt pins $$(grep -c == constraints.txt) packages; make setup brings $(VENV) there"

clean:  ## remove .venv and everything else that was made here
	rm -rf $(VENV) .cache bench/.env .coverage .coverage.* htmlcov .hypothesis .pytest_cache .ruff_cache .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A copied or moved tree brings a .venv that points at its old place: its stamp says so, it is made anew.
# A .venv without a stamp is somebody's own, or was interrupted: it is installed into, never cleared.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
ifneq ($(shell cat $(SERVING) 2>/dev/null),$(CURDIR))
.PHONY: $(SERVING)
endif

# $(call install,EXTRAS): makes .venv if there is none that works here, and installs these extras into it.
define install
	@place="$$(cat $(SERVING) 2>/dev/null || cat $(STAMP) 2>/dev/null)"; \
	if [ "$${place:-$(CURDIR)}" != "$(CURDIR)" ] || ! $(BIN)/python -c '' 2>/dev/null; then \
		python="$(PYTHON)"; \
		"$${python:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			if [ "$$python" ]; then why="$$python is not that"; else why="PATH has none"; fi; \
			echo "Moorage needs Python 3.11 or newer, and $$why." >&2; \
			echo "Install one, or say where it is: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3" >&2; \
			exit 1; }; \
		echo "Making $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing into $(VENV)"
	@$(BIN)/$(PIP) install --quiet -c constraints.txt -e '.[$(1)]'
	@echo "$(CURDIR)" > $(SERVING)
endef

$(SERVING): pyproject.toml constraints.txt
	$(call install,server)

# What serves is part of this: both stamps are set.
$(STAMP): pyproject.toml constraints.txt
	$(call install,$(EXTRAS))
	@echo "$(CURDIR)" > $@
