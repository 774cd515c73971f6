# Three commands for a newcomer: `make taste`, `make demo` and `make test`. Each sets up what it needs in .venv and no
# more; the tests besides, as root, Debian's packages of Slurm (slurm-packages), Chromium (browser-packages), zsh and fish.
PYTHON ?= python3
# The release that the lock files were made and tested with. On a machine without a GPU a CPU build is enough: where your package index does not
# choose it by itself, give PyTorch's CPU index with TORCH_INDEX=ADDRESS.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
STORE ?= store
# of the tests; one more than small machines have cores, as those on a cluster wait more than they compute
WORKERS ?= 3
# of `make coverage`; by default all, and then they must reach 90 %
TESTS ?=
# of `make cluster`; by default as many jobs run at once as the machine has cores
NODES ?= 2
CPUS ?= 0

VENV ?= .venv
BIN := $(VENV)/bin
PYTHONS := 3.11 3.12 3.13 3.14
# exact versions of all packages but torch, for this Python; empty: the newest within pyproject.toml's bounds
LOCK ?= requirements/lock-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
SOURCES := sweep jobs stages tests benchmarks
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check newest lock format format-check lint types tests setup golden clean gpu-check slurm-packages shells cluster cluster-down chaos nfs fuzz slurm-releases reference site taste demo-setup browser-packages coverage

help:
	@echo "make taste   train, fine-tune and score two small models on this machine: a picture within a minute"
	@echo "make demo    run a small version of the study on this machine: tables and figures within eight minutes"
	@echo "make test    format, lint, types and all tests, as CI does (the same as make check)"
	@echo "make cluster start a real Slurm cluster on this machine to try \`sweep submit\` on;  make cluster-down  end it"
	@echo "make site    the documentation as a site, in build/site"
	@echo "make gpu-check  check and measure all that needs a GPU, in eight minutes on one; without a GPU the CPU halves"
	@echo "make slurm-releases  the Slurm tests on Slurm 24.11 and 26.05, in roots of Debian 13 and unstable (as root)"
	@echo "make newest  the same tests with the newest releases of all packages;  make lock  rewrite requirements/"
	@echo "make format  put the sources in order;  make clean  remove the environments and the store"

# Two stamps: what runs sweeps and draws, and what develops besides. Why: docs/decisions.md, D176
setup: $(VENV)/installed-dev
demo-setup: $(VENV)/installed

# setuptools warns of every editable installation of more than one package. Three packages are published as sources only:
# they, too, are built with the setuptools of the lock file.
$(VENV)/installed-dev $(VENV)/installed: export PYTHONWARNINGS = ignore:Editable installation

$(VENV)/installed: pyproject.toml $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@test -z "$(LOCK)" || test -f "$(LOCK)" || echo "There is no $(LOCK), so the newest releases within" \
	    "pyproject.toml's bounds are installed. They may not work together; lock files are there for Python $(PYTHONS)."
	$(PYTHON) -m venv $(VENV) || (echo "try: apt-get install python3-venv"; exit 1)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	if test -f "$(LOCK)"; \
	    then $(BIN)/pip install -q --build-constraint "$(LOCK)" -c "$(LOCK)" -e '.[train,eval,report]'; \
	    else $(BIN)/pip install -q -e '.[train,eval,report]'; fi
# another TORCH may want other releases of the few packages that it needs
	@$(BIN)/pip check || echo "These packages do not fit together; a TORCH of another release can be why."
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	if test -f "$(LOCK)"; \
	    then $(BIN)/pip install -q --build-constraint "$(LOCK)" -r "$(LOCK)" && \
	        $(BIN)/pip install -q --build-constraint "$(LOCK)" --no-deps -e .; \
	    else $(BIN)/pip install -q -e '.[train,eval,report,dev]'; fi
	@$(BIN)/pip check || echo "These packages do not fit together; a TORCH of another release can be why."
	touch $@

# The newest releases that work together, within pyproject.toml's bounds, one file for each Python. glibc 2.28 is that of
# the oldest systems on clusters of today (RHEL 8). torch is named and left out: its build is the machine's matter.
# No hashes: torch, the largest package, could have none, and sites with a package index of their own rebuild others.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install -q --upgrade uv
	mkdir -p requirements
	for version in $(PYTHONS); do \
	    echo "$(TORCH)" | .venv-lock/bin/uv pip compile pyproject.toml --all-extras --constraints - --upgrade --quiet \
	    --python-version $$version --python-platform x86_64-manylinux_2_28 --no-python-downloads \
	    --no-emit-package torch --no-annotate --custom-compile-command 'make lock' \
	    --output-file requirements/lock-$$version.txt || exit 1; \
	done

# What next month's installation without the lock files would bring: run it before `make lock`, and mend what it finds.
newest:
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest LOCK=

taste: demo-setup
	$(BIN)/sweep demo --quick --store $(STORE)

demo: demo-setup
	$(BIN)/sweep demo --store $(STORE)

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

# what is printed from the settings in the code, after a change of one
reference: setup
	$(BIN)/sweep schema > manifests/sweep.schema.json
	$(BIN)/sweep schema --markdown > docs/settings.md

# the keys of the shipped sweeps, after a change that is meant to move them
golden: setup
	$(BIN)/python -m tests.sweep.plan.golden_keys

tests: setup slurm-packages browser-packages shells
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term --durations=10

# the same tests, counting also the lines that programs reach in processes of their own. Why: docs/decisions.md, D219
coverage: export COVERAGE_FILE = $(CURDIR)/.coverage
coverage: setup slurm-packages browser-packages shells
	$(BIN)/coverage erase
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report $(if $(TESTS),--fail-under=0)

# nothing where Slurm's programs are there; else apt-get as root, or a message with what to install
slurm-packages: setup
	$(BIN)/python -m tests.slurm_lab install

# whose completion is tested; without them, and without root, these tests are left out
shells:
	@command -v zsh > /dev/null && command -v fish > /dev/null || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null \
	    && apt-get install --yes --no-install-recommends -qq zsh fish; } || echo "zsh or fish is missing: its completion is not tested"

# the documentation as a site, to open from build/site/index.html
site: setup
	$(BIN)/python -m tests.docs build
	@echo "build/site/index.html"

# nothing where Chromium is there; else apt-get as root, or a message with what to install
browser-packages: setup
	$(BIN)/python -m tests.browser install

cluster: setup slurm-packages
	$(BIN)/python -m tests.slurm_lab up --nodes $(NODES) --cpus $(CPUS)

cluster-down: setup
	$(BIN)/python -m tests.slurm_lab down

# faults of every kind on a real Slurm cluster of its own: docs/slurm-cluster.md
# faults on two machines (namespaces of this one) that share a folder as over NFS; needs root and /dev/fuse
nfs: setup
	$(BIN)/python -m tests.nfs --faults $(or $(FAULTS),100) --seed $(or $(SEED),1)

# inputs by chance for every reader of what strangers wrote: docs/fuzz.md
fuzz: setup
	failed=0; for program in archives stored sweep-files tokenizers tasks safetensors; do \
	    OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $$program --cases $(or $(CASES),1000) --seed $(or $(SEED),1) || failed=1; \
	done; exit $$failed

chaos: setup slurm-packages
	$(BIN)/python -m tests.slurm_lab.chaos --faults $(or $(FAULTS),300) --seed $(or $(SEED),1)

# the Slurm tests on Debian 13 and unstable, in roots below build/: docs/slurm-cluster.md
slurm-releases: setup
	$(BIN)/python -m tests.slurm_lab.releases $(SUITES) $(if $(TESTS),--tests $(TESTS))

# on a machine with a GPU, run `make setup` before its minutes count: docs/gpu-check.md
gpu-check: setup
	$(BIN)/python -m benchmarks.gpu_check --budget-minutes $(or $(MINUTES),8) $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf .venv .venv-newest .venv-lock build/slurm-releases $(STORE)
