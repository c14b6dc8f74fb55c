# Everything a developer runs. `make demo` and `make test` need Python >= 3.11 and make, nothing else.
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types test-fast test-area test-portable test-slow test-faults test-peers test-gpu test-order test-oldest bench bench-scale bench-gpu reference same-numbers docs audit dist clean

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
RELEASE_STAMP := $(VENV)/.installed-release

# The first interpreter that is new enough, runs, and can make environments (version managers leave shims that only
# print an error). Evaluated when an environment has to be made and not before.
PROBE = import ensurepip, sys, venv; print(sys.version_info >= (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	[ "$$($$p -c '$(PROBE)' 2>/dev/null)" = True ] && echo $$p && break; done)

# One thread a process: in the small steps of these models more threads mostly wait for one another, above all where
# several processes share the cores. `make demo OMP_NUM_THREADS=4` takes more.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
# Where a machine forbids bytecode, every process that tests and commands start compiles the library anew: 1.4 s each.
export PYTHONDONTWRITEBYTECODE :=
# More workers than a small machine's cores: a part of the tests waits for processes.
WORKERS ?= 4
PYTEST := $(PY) -m pytest
HAS_GPU := $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
# `make demo SMALL=1` trains for a few epochs only.
DEMO_ARGS := $(if $(SMALL),--small)

help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): setup.cfg pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "recgraph needs Python >= 3.11 with venv; name one with make PYTHON=..." >&2; exit 1; }
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev,serve,api,export,explain,track,notebooks,dgl,postgres,ray,browser,integrations]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(RELEASE_STAMP): $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[release]'
	@touch $@

venv: $(STAMP)  ## the environment in .venv, brought up to date when setup.cfg changes

demo: $(STAMP)  ## train and compare five models on MovieLens-100k, then recommend (SMALL=1: a quick pass)
	$(PY) experiments/demo.py $(DEMO_ARGS)

test: lint  ## all checks: lint, and beside each other types and every test that is quick
	@$(MAKE) --no-print-directory -j 2 types test-fast

test-fast: $(STAMP)
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not slow and not faults and not peer and not gpu" $(ARGS)

test-area: $(STAMP)  ## the quick tests of one folder of tests/, in one process (AREA=contrast)
	@[ -n "$(AREA)" ] || { echo "name a folder of tests/, e.g. make test-area AREA=contrast" >&2; exit 1; }
	$(PYTEST) -q -m "not slow and not faults and not peer and not gpu" tests/$(AREA) $(ARGS)

lint: $(STAMP)  ## ruff and the static check of devices
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) tests/checks/devices.py

types: $(STAMP)  ## mypy --strict over the library
	$(PY) -m mypy

# Other processors on this one: the widths of vectors that libraries choose, and the order in which threads add up.
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2
test-portable: $(STAMP)  ## the quick tests with one and two threads, without vector instructions, and with those of older processors
	for setting in OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 ATEN_CPU_CAPABILITY=default '$(AVX2)'; do \
		echo "== $$setting"; env $$setting $(MAKE) --no-print-directory test-fast || exit 1; \
	done

test-slow: $(STAMP)  ## what takes long, and what Hypothesis finds with examples that nobody chose
	RECGRAPH_EXPLORE=1 $(PYTEST) -m "(slow or hypothesis) and not faults and not peer and not gpu" $(ARGS)

test-faults: $(STAMP)  ## commands that are killed go on to the same result: docs/contract.md
	$(PYTEST) -m faults tests/faults $(ARGS)

test-peers: $(STAMP)  ## agreement with other libraries, each in an environment of its own, made with pip
	$(PYTEST) -m peer $(ARGS)

# `make test-order SEED=2` takes another order.
SEED ?= 1
test-order: $(STAMP)  ## the quick tests in a random order of files and of the tests in each (SEED)
	$(MAKE) test-fast ARGS="--random-order --random-order-seed=$(SEED) $(ARGS)"

OLDEST := build/oldest
test-oldest: $(STAMP)  ## the quick tests with the oldest version of each package that setup.cfg allows
	rm -rf $(OLDEST) && mkdir -p build && $(PYTHON) -m venv $(OLDEST)
	$(PY) tests/checks/floors.py > $(OLDEST)/floors.txt
	$(OLDEST)/bin/python -m pip install --quiet -c $(OLDEST)/floors.txt -e '.[dev,serve,api,export,explain,notebooks,postgres]'
	$(OLDEST)/bin/python -m pytest -n $(WORKERS) -m "not slow and not faults and not peer and not gpu" $(ARGS)

test-gpu: $(STAMP)  ## the contract tests on a CUDA device
	@if $(HAS_GPU); then $(PYTEST) -m gpu $(ARGS); else echo "no device: not run"; fi

bench: $(STAMP)  ## speed against other libraries, each in an environment of its own
	$(PY) -m experiments.bench $(ARGS)

bench-scale: $(STAMP)  ## how time and memory of each stage grow with its data, with fitted exponents (ARGS: stages)
	$(PY) -m experiments.bench.growth --out experiments/results/bench-scale.jsonl $(ARGS); \
	code=$$?; $(PY) -m experiments.bench.growth_plot && exit $$code

bench-gpu: $(STAMP)  ## the same on a CUDA device
	@if $(HAS_GPU); then $(PY) -m experiments.bench --device cuda $(ARGS); else echo "no device: not run"; fi

reference: $(STAMP)  ## every agreement with published code and other libraries, a JSON object a line
	$(PY) -m experiments.reference $(ARGS)

same-numbers: $(STAMP)  ## small trainings of every model against committed fingerprints, on any processor
	$(PY) experiments/same_numbers.py $(ARGS)

docs: $(DOCS_STAMP)  ## the documentation, in docs/_build/html
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

audit: $(RELEASE_STAMP)  ## known vulnerabilities of the installed packages (asks PyPI)
	$(PY) -m pip_audit --skip-editable $(ARGS)

RELEASE := build/release
dist: $(RELEASE_STAMP)  ## wheel and source archive, their bill of materials (CycloneDX) and checksums, in dist/
	rm -rf dist $(RELEASE)
	$(PY) -m build --outdir dist
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	$(PY) -m cyclonedx_py environment --mc-type library --output-reproducible -o dist/recgraph.cdx.json $(RELEASE)/bin/python
	cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

clean:  ## remove what was built (not .venv)
	rm -rf build dist docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find recgraph tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
