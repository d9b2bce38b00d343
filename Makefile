# make run    mirrors Docker Hub on port 5000 from ./data
# make demo   the same against a small local upstream, without a network: a cold and a warm pull
# make test   lint, types, import contracts, unit, integration and real clients
# make check  the quick part of it: no real clients, no container image
# make bench  measures the mirror beside other registries and nginx, for docs/performance.md; 10 to 15 minutes
# make bench-s3       measures a mirror on a bucket, and a docker-registry beside it; three minutes
# make bench-keeping  measures what docs/performance.md says of what is kept; some minutes

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Tests at a time, where they may run beside others (tests/support/workers.py): as many as there are processors. One
# more saves some minutes, but a few tests do not yet bear the load. Never more than 4: each has servers of its own,
# some hundred MB of them.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 2 ? 2 : n < 5 ? n : 4)))
BENCH_ARGS ?=
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
NO_INDEX = The first run installs Python packages: pip needs a package index (PIP_INDEX_URL) or wheels (PIP_FIND_LINKS).

.PHONY: run demo test check lint packages bench bench-s3 bench-keeping clean

run: $(VENV)/.run
	$(BIN)/mirror serve

demo: $(VENV)/.run
	$(BIN)/python examples/demo.py

test: packages lint
	$(BIN)/pytest -n $(WORKERS) $(PYTEST_ARGS)

check: lint
	$(BIN)/pytest -n $(WORKERS) -m "not clients and not image" $(PYTEST_ARGS)

bench: packages $(VENV)/.dev
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

bench-s3: packages $(VENV)/.dev
	$(BIN)/python -m tests.bench.bucket

bench-keeping: $(VENV)/.dev
	$(BIN)/python -m tests.bench.run_keeping
	$(BIN)/python -m tests.bench.scale

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The container clients and servers that the tests drive; installed as root, else only named.
packages:
	@tests/packages

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@tests/packages --venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(PIP) -e . || { echo "$(NO_INDEX)"; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(PIP) -e '.[dev]' || { echo "$(NO_INDEX)"; exit 1; }
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
