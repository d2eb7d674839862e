# Each target sets up what it needs: the virtual environment from the lock, and
# PostgreSQL with PL/Python from the system's packages where they are missing.
#
#   make demo    everything running, with traces in it and questions answered
#   make stop    end what demo and db have started
#   make db      the private PostgreSQL with MLflow's and our schema; prints its DSN
#   make unit    the tests that need no server, in seconds
#   make check   lint, unit, and the tests of what differs from main
#   make test    all tests; one part: make test TESTS=tests/sql JOBS=0
#                with another release of MLflow: make test MLFLOW=3.18.0
#   make simulate   what the statistics promise, by simulation; a part of make test
#   make coverage   lines and branches of the engine that tests without a server reach
#   make faults  the worker, disturbed 500 times
#   make chaos   ten minutes of faults while MLflow writes and readers ask; CHAOS='--seed 7'
#   make lint    ruff, ruff format, mypy --strict, the direction of imports, the released revisions
#   make bench   the benchmarks
#   make lock    resolve the dependencies anew
#   make tables  write the tables of the parser from the grammar
#   make revision  open the next revision: make revision MESSAGE="spans by model"
#   make release freeze the open revision; see RELEASING.md
#   make reference  write docs/sql.md from the database's catalogue
#
# INSIGHTS_PG_PORT (54329) and INSIGHTS_MLFLOW_PORT (5001) choose other ports.

SHELL := /bin/sh
PYTHON ?= python3
TESTS ?= tests
# Processes that run tests side by side, each with a server of its own; 0: none but one.
JOBS ?= auto
# A release of MLflow other than the locked one, in an environment of its own.
MLFLOW ?=
VENV := .venv$(if $(MLFLOW),-mlflow-$(MLFLOW))
PY := $(VENV)/bin/python
LINTED := hatch_build.py plpython insights_py insights_dev migrations tests bench examples

.DEFAULT_GOAL := help
.PHONY: help venv demo stop db unit check test simulate coverage chaos faults lint bench lock tables \
	revision release reference format clean
.NOTPARALLEL:

help:
	@sed -n '4,22s/^#//p' Makefile

venv:
	@$(PYTHON) insights_dev/environment.py $(if $(MLFLOW),--mlflow $(MLFLOW))

demo: venv
	@dsn=$$($(PYTHON) -m insights_dev.cluster start) && \
	dsn=$$($(PY) -m insights_dev.database "$$dsn") && \
	$(PY) -m examples.demo --dsn "$$dsn"

stop:
	@if [ -x $(PY) ]; then $(PY) -m insights_dev.mlflow_server stop; fi
	@if [ -x $(PY) ]; then $(PY) -m insights_dev.index_worker stop; fi
	@$(PYTHON) -m insights_dev.cluster stop

db: venv
	@dsn=$$($(PYTHON) -m insights_dev.cluster start) && $(PY) -m insights_dev.database "$$dsn"

# Schemathesis is for the REST routes, and takes seconds to load.
unit: venv
	@$(PY) -m pytest -q -p no:schemathesis -n $(JOBS) --dist worksteal --durations=15 tests/unit

check: lint unit
	@tests=$$($(PY) -m insights_dev.affected) && \
	if [ -n "$$tests" ]; then echo "$$tests"; \
		$(PY) -m pytest -n $(JOBS) --dist loadfile --durations=15 $$tests; fi

test: venv
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --durations=15 $(TESTS)

simulate: venv
	@$(PY) -m pytest -n $(JOBS) --dist worksteal --durations=15 tests/simulation

# The data file is under .dev/ (pyproject.toml).
coverage: venv
	@mkdir -p .dev
	@$(PY) -m coverage run -m pytest -q -p no:schemathesis tests/unit
	@$(PY) -m coverage report

faults: venv
	@INSIGHTS_FAULTS=$${INSIGHTS_FAULTS:-500} $(PY) -m pytest -x -k random_faults \
		tests/client/test_worker_faults.py

chaos: venv
	@PYTHONPATH=plpython $(PY) -m tests.chaos $(CHAOS)

lint: venv
	$(PY) -m ruff check $(LINTED)
	$(PY) -m ruff format --check $(LINTED)
	$(PY) -m mypy
	PYTHONPATH=plpython .venv/bin/lint-imports --no-logo --no-cache
	$(PY) -m insights_dev.release --check
	$(PY) -m insights_dev.async_client --check

format: venv
	$(PY) -m ruff check --fix $(LINTED)
	$(PY) -m ruff format $(LINTED)

# DuckDB and chDB are large, so only this installs them; pip where uv cannot.
ADD_BENCH = install --quiet --require-hashes --only-binary :all: -r requirements-bench.txt
bench: venv
	@$(PY) -m uv pip $(ADD_BENCH) --python $(PY) || $(PY) -m pip $(ADD_BENCH)
	@dsn=$$($(PYTHON) -m insights_dev.cluster start) && $(PY) -m bench --server "$$dsn"

tables: venv
	$(PY) plpython/generate_tables.py

revision: venv
	@$(PY) -m insights_dev.release --next "$(MESSAGE)"

release: venv
	@$(PY) -m insights_dev.release

reference: venv
	@dsn=$$($(PYTHON) -m insights_dev.cluster start) && $(PY) -m insights_dev.reference "$$dsn"

# The first is for production images, the second for development and CI, the third
# is what `make bench` needs on top.
COMPILE = $(PY) -m uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock"
lock: venv
	$(COMPILE) pyproject.toml --extra mlflow --output-file requirements.txt
	$(COMPILE) pyproject.toml --all-extras --group dev --constraint requirements.txt \
		--output-file requirements-dev.txt
	$(COMPILE) --group bench --constraint requirements-dev.txt --output-file requirements-bench.txt
	@! grep -n -i -E 'https?://|index-url|find-links' requirements.txt requirements-dev.txt \
		requirements-bench.txt

clean: stop
	@$(PYTHON) -m insights_dev.cluster remove
	rm -rf .venv .venv-mlflow-* .dev build dist
