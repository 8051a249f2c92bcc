# Every target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint docs clean

setup: .venv/.done
	@scripts/programs

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Clinome needs Python 3.11 or newer; run: make PYTHON=python3.11 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: .venv/.done
	$(BIN)/clinome demo --out demo

lint: .venv/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One thread a worker: two workers share two cores, and threads that spin for a busy core triple the time.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

docs: .venv/.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build site demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
