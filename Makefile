# PYTHONPATH: a copy of this tree (dvc exp run --temp, --queue) must run its own code, not the one that was installed.
export PYTHONPATH := src
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install repro test test-slow test-cluster test-dvc results lint bench clean

install: .venv/installed

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	# W&B's schema of sweep files, for the tests: a package that asks for an older numpy, and whose code is never run.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps sweeps==0.3.0
	touch $@

repro: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@echo "the report: $(CURDIR)/reports/index.html"

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not cluster" --cov=gibbsnet --cov-report=term:skip-covered --cov-fail-under=90

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not cluster"

# A real SLURM on this machine: about two minutes. It is installed where it is missing and may be (Debian, root).
test-cluster: install
	@command -v slurmctld >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || ( \
		apt-get -qq -o Acquire::Retries=3 update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 install -y --no-install-recommends slurm-wlm munge )
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_cluster.py -rs

# Queued experiments and a remote, in clones of this repository: some minutes.
test-dvc: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_pipeline.py

# Not among them: cifar10 and cifar10_long, for a GPU, and the tables in bf16; their commands stand above them in docs/comparison.md,
# lab/comparison.md and stability.md.  Nor the lab book's own tables and the pictures of single runs: the command stands beside each.
results: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.results
	for data in ring grid digits mnist; do $(BIN)/python -m benchmarks.compare $$data || exit 1; done
	$(BIN)/python -m benchmarks.compare mnist_long seeds=21,22 models=ali_floor,ali_cycle,gibbsnet_short,ali_surest,gibbsnet_surest,gibbsnet_alike
	$(BIN)/python -m benchmarks.compare digits penalty.x=0.15 models=ali,ali_floor,gibbsnet_short,gibbsnet_sharp,ali_shift,gibbsnet_shift
	$(BIN)/python -m benchmarks.compare digits game.shift=1 models=ali_tuned,gibbsnet_tuned
	$(BIN)/python -m benchmarks.compare ring models=ali,ali_floor,ali_cycle,gibbsnet,gibbsnet_short,gibbsnet_cut,untied pictures=beside
	$(BIN)/python -m benchmarks.compare digits models=ali,ali_floor,gibbsnet,gibbsnet_short pictures=beside
	$(BIN)/python -m benchmarks.compare mnist models=ali,gibbsnet,gibbsnet_short pictures=beside
	$(BIN)/python -m benchmarks.compare mnist models=ali_floor pictures=floor
	for data in digits mnist; do \
		$(BIN)/python -m benchmarks.compare $$data models=ali_cycle,gibbsnet_cut,untied pictures=variants || exit 1; done
	$(BIN)/python -m benchmarks.compare grid models=ali,ali_floor,gibbsnet_sharp,ali_cycle,gibbsnet_cut,untied pictures=beside
	$(BIN)/python -m benchmarks.compare grid models=ali_cycle_sharp,gibbsnet_cycle_late pictures=cycle
	$(BIN)/python -m benchmarks.aim
	$(BIN)/python -m benchmarks.fill run=runs/compare/mnist_long/gibbsnet_short/21
	$(BIN)/python -m benchmarks.drift $(foreach seed,21 22 23 24 25,run=runs/compare/digits/gibbsnet_shift/$(seed))
	for what in data=ring data=digits 'data=mnist seeds=3,4'; do \
		$(BIN)/python -m benchmarks.stability $$what models=n0,n1,n3,random,persistent,unshared,learned,n10 || exit 1; done
	for data in ring digits; do $(BIN)/python -m benchmarks.stability data=$$data models=rising || exit 1; done
	$(BIN)/python -m benchmarks.walk run=runs/stability/mnist/unshared/3 run=runs/stability/mnist/unshared/4 run=runs/stability/digits/unshared/1
	for part in labels fills fills_mnist fills_labels fills_apart fills_latents levels levels_mnist modes phases approach labels_mnist fills_labels_mnist; do \
		$(BIN)/python -m benchmarks.abilities $$part || exit 1; done
	$(BIN)/python -m benchmarks.abilities phases pictures=beside
	for data in ring digits mnist; do $(BIN)/python -m benchmarks.settings $$data || exit 1; done
	$(BIN)/python -m gibbsnet report runs out=reports

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: install
	$(BIN)/python -m benchmarks.step

clean:
	rm -rf runs reports judges
