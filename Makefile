# make demo: the whole pipeline on phantoms. make test: all checks. Both set up .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench lint test-slurm faults scale

demo: $(VENV)/.installed
	$(BIN)/python -m tests.phantoms.demo demo

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

# The demo again, and failures, on a live SLURM of one node; root only.
test-slurm: demo
	$(BIN)/python -m pytest tests/slurm

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.predicting

# Plans and tables of 100 to 100,000 scans, without voxels.
scale: $(VENV)/.installed
	$(BIN)/python -m benchmarks.scale

# Half an hour; small file systems in memory stand for full disks, which needs root.
faults: $(VENV)/.installed
	$(BIN)/python -m tests.faults --page docs/faults.md

# The lock names every package, so that pip resolves nothing.
$(VENV)/.installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	touch $@
