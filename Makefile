# Every target sets up what it needs in .venv. Choose the host with AUTO_LIRPA: a pip requirement or a local checkout,
#   make test AUTO_LIRPA=git+https://github.com/Verified-Intelligence/auto_LiRPA.git
#   make test AUTO_LIRPA=../auto_LiRPA
PYTHON ?= python3
AUTO_LIRPA ?= auto_LiRPA==0.3
VENV ?= .venv
# How much `make soundness` tries, and from which seed on.
COUNT ?= 1000
SEED ?= 0
# Least part of the lines that `make coverage` accepts, in per cent.
COVERED ?= 95
# Where `make gpu` runs: cuda, or cpu for a trial.
DEVICE ?= cuda
# Tests in that many processes at once, up to four (each takes about 1 GB of memory); 0: in one, without distributing.
JOBS ?= logical

BIN := $(VENV)/bin
DEMO := examples/data/digits_tanh
PIP := $(BIN)/python -m pip
# pip's prefix for a local checkout. It is copied first: building leaves files behind, and it may be read-only.
HOST_COPY := $(VENV)/host-source

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all coverage soundness mutants bench docs dist gpu lint format clean setup FORCE

help:
	@echo "make demo      derivatives and constants of a shipped tanh network, and CROWN beside them"
	@echo "make test      the tests of a few minutes"
	@echo "make test-all  all tests (VNNCOMP_BENCHMARKS=DIR adds the VNN-COMP networks)"
	@echo "make coverage  the tests of make test, and which lines they reach, in htmlcov/; fails under $(COVERED) % of lines"
	@echo "make soundness random networks against sampled, ascended and exact values (COUNT=$(COUNT) SEED=$(SEED))"
	@echo "make mutants   which tests notice that something was broken, written to mutants.md"
	@echo "make bench     speed against the host"
	@echo "make docs      the documentation site, with all links checked, into site/"
	@echo "make dist      wheel and source distribution, into dist/, tried in a clean environment"
	@echo "make gpu       tests and tables of a CUDA device in 8 minutes, into docs/scale.md (DEVICE=cpu: a trial)"
	@echo "make lint      ruff (rules and format), mypy, shellcheck, CITATION.cff, and actionlint where it is installed"
	@echo "make format    let ruff mend and format what it can"
	@echo "make clean     remove .venv and everything generated"
	@echo "Variables: AUTO_LIRPA (now $(AUTO_LIRPA)), PYTHON (now $(PYTHON)), JOBS (now $(JOBS))"

demo: setup
	$(BIN)/recurjac jacobian $(DEMO).onnx --vnnlib $(DEMO)_small.vnnlib --image-shape 8,8 --plot demo.png
	$(BIN)/recurjac lipschitz $(DEMO).onnx --vnnlib $(DEMO)_small.vnnlib --eps 0.001,0.01,0.1
	$(BIN)/recurjac compare $(DEMO).onnx $(DEMO)_small.vnnlib --methods auto,CROWN,auto+CROWN --timeout 5

test: setup
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(JOBS) --maxprocesses 4 --dist worksteal

test-all: setup
	$(BIN)/python -m pytest

# Processes that tests start are measured, too; each leaves a file of its own, which are put together at the end.
coverage: setup
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(JOBS) --maxprocesses 4 --dist worksteal \
	    --cov --cov-report=term:skip-covered --cov-report=html --cov-fail-under=$(COVERED)

soundness: setup
	$(BIN)/python tests/soundness/random_jacobians.py --bounds $(COUNT) --seed $(SEED)
	$(BIN)/python tests/soundness/exact_bounds.py --rigorous --count $(COUNT) --seed $(SEED)
	$(BIN)/python tests/soundness/exact_verdicts.py --count $(COUNT) --seed $(SEED)

mutants: setup
	$(BIN)/python tests/mutants/run.py --out mutants.md

bench: setup
	$(BIN)/python -m pytest benchmarks

docs: $(VENV)/.packages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site
	$(BIN)/linkchecker --config docs/linkcheck.ini site/index.html

dist: $(VENV)/.packages
	.ci/dist $(BIN)/python '$(AUTO_LIRPA)'

gpu: setup
	$(BIN)/python benchmarks/gpu.py --device $(DEVICE) $(if $(filter cuda,$(DEVICE)),--docs docs/scale.md)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x examples/vnncomp/*.sh .ci/*
	$(BIN)/cffconvert --validate
	if command -v actionlint > /dev/null; then actionlint; fi # no package of Python holds it: CI brings its own

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info demo.png mutants.md gpu.md .coverage .coverage.* htmlcov .benchmarks .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(VENV)/.host

$(VENV)/.packages: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# The stamp holds the host it was made for, so that another AUTO_LIRPA replaces the installed one. Without build
# isolation: the host's setup script looks at the torch that is installed.
$(VENV)/.host: $(VENV)/.packages FORCE
	@if [ "$$(cat $@ 2>/dev/null)" != '$(AUTO_LIRPA)' ]; then \
	    set -e; source='$(AUTO_LIRPA)'; \
	    if [ -d "$$source" ]; then \
	        rm -rf $(HOST_COPY); mkdir $(HOST_COPY); \
	        cp -R "$$source"/setup.py "$$source"/README.md "$$source"/auto_LiRPA $(HOST_COPY); \
	        chmod -R u+w $(HOST_COPY); source=./$(HOST_COPY); \
	    fi; \
	    echo "installing the host: $(AUTO_LIRPA)"; \
	    $(PIP) install --quiet --no-deps --no-build-isolation --force-reinstall "$$source"; \
	    printf '%s' '$(AUTO_LIRPA)' > $@; \
	fi
