# PYTHONPATH: a copy of this tree (dvc exp run --temp, --queue) must run its own code, not the one that was installed.
export PYTHONPATH := src
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install repro test test-slow results lint bench clean

install: .venv/installed

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	# W&B's schema of sweep files, for the tests: a package that asks for an older numpy, and whose code is never run.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps sweeps==0.3.0
	touch $@

repro: install
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/dvc repro
	@echo "the report: $(CURDIR)/reports/index.html"

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --cov=gibbsnet --cov-report=term:skip-covered --cov-fail-under=90

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

results: install
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m benchmarks.results

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: install
	$(BIN)/python -m benchmarks.step

clean:
	rm -rf runs reports judges
