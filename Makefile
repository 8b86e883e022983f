# make demo: set up and train a small model on this machine.
# make test: set up everything, the system packages included, and run the checks.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint types walls unit docs soak clean

demo: $(VENV)/.demo
	$(BIN)/python -m hpcjobs.submit +experiment=mgm_lora_demo

test: $(VENV)/.dev
	bash tests/cluster/install.sh
	$(MAKE) check

check: lint types walls docs unit

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	shellcheck tests/cluster/*.sh singularity/*.sh .ci/run

types:
	$(BIN)/mypy

walls:
	$(BIN)/lint-imports

docs:
	$(BIN)/python docs/make_reference.py --check

unit:
	$(BIN)/pytest

# torch first: a resolver that starts from deepspeed picks the build with the CUDA libraries.
$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch==2.13.0"
	$(BIN)/pip install --quiet -e ".[train,demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet -e ".[train,demo,dev]"
	touch $@

# 200 random kills of one training on a real Slurm: about three hours; writes benchmarks/soaking/report.*
soak: $(VENV)/.dev
	bash tests/cluster/install.sh
	$(BIN)/python benchmarks/soak.py --kills 200 --seed 1

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
