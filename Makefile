# The project's commands. `make demo` needs Python 3.11 or newer and make; nothing else, and no root.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := twin loop emulator experiments inferno tests benchmarks
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Compiled once: a hundred tests start the command, each in a process of its own.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test fuzz quick check coverage snapshots bench validate figures requirements dist sbom notebooks site clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	$(PYTHON) -m venv .venv

# Editable installs, so that a change of the code needs no second installation.
.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing the packages into .venv: a minute or two, and nothing is printed meanwhile"
	$(INSTALL) --editable .
	@touch $@

.venv/.installed-test: .venv/.installed
	$(INSTALL) --editable '.[test]'
	@touch $@

demo: .venv/.installed  ## Sweep alpha and the period, compare five policies, say which to take, and make a page of it
	$(BIN)/inferno sweep --data sample-data/small --scenario disturbed --alpha 0.1,0.3 --period 30,60,120 \
	  --seeds 2 --hours 0.5 --out out/demo/sweep --resume
	$(BIN)/inferno sim --data sample-data/small --scenario ramp --out out/demo/ramp
	$(BIN)/inferno compare --data sample-data/small --policies slo,hpa,keda,static_peak,clairvoyant \
	  --scenario day,ramp,code-trace --out out/demo/compare --resume
	$(BIN)/inferno report out/demo/compare out/demo/sweep out/demo/ramp --out out/demo/report.html

# For tests only. It never fails: without one those tests skip, saying so.
.PHONY: prometheus
prometheus: .venv/.installed-test
	@scripts/get-prometheus.sh

# Tests of one file stay in one process, which makes what they share once. Tests over real HTTP have
# deadlines: they run one at a time, so that none waits for a core.
# As above, for pages in a real browser.
.PHONY: chromium
chromium: .venv/.installed-test
	@scripts/get-chromium.sh

test: .venv/.installed-test prometheus chromium  ## Run all tests
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/live
	$(BIN)/python -m pytest tests/live

coverage: .venv/.installed-test prometheus chromium  ## Run all tests, and fail if they cover less than 90 % (half as dear again)
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/live --cov --cov-report=
	$(BIN)/python -m pytest tests/live --cov --cov-append --cov-report=term --cov-fail-under=90

check: .venv/.installed-test  ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed-test  ## Run the benchmarks, and say what moved since benchmarks/baseline.json
	$(BIN)/python -m benchmarks

fuzz: .venv/.installed-test  ## Try a thousand worlds on both engines, and a thousand examples of each property (minutes)
	$(BIN)/python -m pytest -q -m fuzz
	$(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile fuzz

quick: .venv/.installed-test  ## Run the tests that matter while working: not tests/live, not what is marked slow or costly
	$(BIN)/python -m pytest -q -m "not slow and not costly and not fuzz" --ignore tests/live

snapshots: .venv/.installed-test  ## Write the snapshots of help texts and error lines anew, and the copy of the alert rules
	UPDATE_SNAPSHOTS=1 $(BIN)/python -m pytest -q tests/test_snapshots.py
	UPDATE_SNAPSHOTS=1 $(BIN)/python -m pytest -q tests/live/test_monitoring.py -k same_rules

validate: .venv/.installed  ## Repeat the figures of docs/validation.md, as far as the data are at hand (minutes)
	$(BIN)/python -m experiments.validation.validate

figures: .venv/.installed-test chromium  ## Draw the pictures of the documents again (some minutes)
	$(BIN)/python docs/figures.py
	UPDATE_SNAPSHOTS=1 $(BIN)/python -m pytest -q tests/web/test_screenshots.py

# Names, versions and digests only: where packages come from is said by who builds.
HASHES := $(BIN)/uv pip compile --universal --python-version 3.11 --constraint constraints.txt --generate-hashes \
	--no-header --no-annotate --quiet
requirements: .venv/.installed  ## Write anew what the image installs, with digests, after a change of constraints.txt
	$(INSTALL) uv==0.13.9
	$(HASHES) pyproject.toml --output-file requirements/image.txt
	$(HASHES) pyproject.toml --extra dask --extra fast --output-file requirements/extras-image.txt
	grep -o 'hatchling==[0-9.]*' pyproject.toml | head -n 1 | $(HASHES) - --output-file requirements/build.txt

dist: .venv/.installed-test  ## Build wheel and sdist into out/dist
	$(BIN)/python -m build --no-isolation --outdir out/dist

sbom: .venv/.installed  ## Write the bill of materials of the image into out/dist (CycloneDX)
	$(INSTALL) cyclonedx-bom==7.5.0
	mkdir -p out/dist
	$(BIN)/cyclonedx-py requirements requirements/image.txt --pyproject pyproject.toml --output-reproducible \
	  --output-file out/dist/inferno-twin.cdx.json

notebooks: .venv/.installed-test  ## Run the notebooks, and keep what comes out in them (minutes)
	$(BIN)/python scripts/run_notebooks.py

.venv/.installed-docs: .venv/.installed
	$(INSTALL) --editable '.[docs]'
	@touch $@

# Strict: a link that leads nowhere, or a page without a place, is an error.
site: .venv/.installed-docs  ## Build the site of the documentation into out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:  ## Remove what the targets made
	rm -rf .venv out build ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
