# What a developer types. `make` alone lists it. Needs python3 (3.11 or newer, with venv), make and git.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/ready

# The real cases, where they lie beside the checkout and nothing else is said.
ifndef INRREG_DATA
ifneq ($(wildcard ../shared/data),)
export INRREG_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help setup demo test lint clean

help:
	@echo 'make demo   register a generated lung pair and say how far off the answer is (demo/result/report.html)'
	@echo 'make test   run all tests (WORKERS=2 processes)'
	@echo 'make lint   check format, style and types'
	@echo 'make setup  make .venv with the pinned versions; the others do so by themselves'
	@echo 'make clean  remove .venv, the demo and caches'

setup: $(READY)

# torch comes first and alone: a build that is there already, or that your index offers for this machine, is kept.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("inrreg needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/inrreg demo lung -o demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n $(WORKERS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
