# Two commands for a newcomer: `make demo` and `make test`. Both set up all that they need in .venv, and the tests
# besides, as root, Debian's packages of Slurm (slurm-packages).
PYTHON ?= python3
# The newest release known to work. On a machine without a GPU a CPU build is enough: where your package index does not
# choose it by itself, give PyTorch's CPU index with TORCH_INDEX=ADDRESS.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
STORE ?= store
# of the tests; one more than small machines have cores, as those on a cluster wait more than they compute
WORKERS ?= 3
# of `make cluster`; by default as many jobs run at once as the machine has cores
NODES ?= 2
CPUS ?= 0

BIN := .venv/bin
SOURCES := sweep jobs stages tests benchmarks
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check format format-check lint types tests setup golden clean slurm-packages cluster cluster-down chaos

help:
	@echo "make demo    run the demo sweep on this machine and show its tables and figures (about ten minutes)"
	@echo "make test    format, lint, types and all tests, as CI does (the same as make check)"
	@echo "make cluster start a real Slurm cluster on this machine to try \`sweep submit\` on;  make cluster-down  end it"
	@echo "make format  put the sources in order;  make clean  remove the environment and the store"

setup: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv || (echo "try: apt-get install python3-venv"; exit 1)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
# setuptools warns of every editable installation of more than one package
	PYTHONWARNINGS='ignore:Editable installation' $(BIN)/pip install -q -e '.[train,eval,report,dev]'
	touch $@

demo: setup
	$(BIN)/sweep data demo --store $(STORE)
	$(BIN)/sweep plan manifests/demo.yaml --store $(STORE)
	$(BIN)/sweep submit demo --store $(STORE)
	$(BIN)/sweep status demo --store $(STORE)
	$(BIN)/sweep results demo --store $(STORE)

test check: format-check lint types tests

format: setup
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

format-check: setup
	$(BIN)/ruff format --check $(SOURCES)

lint: setup
	$(BIN)/ruff check $(SOURCES)

types: setup
	$(BIN)/mypy

# the keys of the shipped sweeps, after a change that is meant to move them
golden: setup
	$(BIN)/python -m tests.sweep.plan.golden_keys

tests: setup slurm-packages
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term --durations=10

# nothing where Slurm's programs are there; else apt-get as root, or a message with what to install
slurm-packages: setup
	$(BIN)/python -m tests.slurm_lab install

cluster: setup slurm-packages
	$(BIN)/python -m tests.slurm_lab up --nodes $(NODES) --cpus $(CPUS)

cluster-down: setup
	$(BIN)/python -m tests.slurm_lab down

# faults of every kind on a real Slurm cluster of its own: docs/slurm-cluster.md
chaos: setup slurm-packages
	$(BIN)/python -m tests.slurm_lab.chaos --faults $(or $(FAULTS),300) --seed $(or $(SEED),1)

clean:
	rm -rf .venv $(STORE)
