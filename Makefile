# make demo: from raw documents to a served chat model; make test: the whole test suite. Both set up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin

.PHONY: setup setup-test demo test test-all lint bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

setup-test: $(VENV)/.ready-test

$(VENV)/.ready-test: requirements-test.lock $(VENV)/.ready
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.lock
	touch $@

demo: setup
	$(RUN)/athanor run quickstart

test: setup-test lint
	$(RUN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-all: setup-test lint
	$(RUN)/python -m pytest

lint: setup-test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: setup-test
	$(RUN)/python benchmarks/quickstart.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
