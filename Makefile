# `make` lists the targets. Each installs what it needs into .venv first; a machine with Python 3.11+ and make suffices.
# ARGS are passed on: make up ARGS="--port 9000 --workers 2", make test ARGS="tests/unit -k rules"

VENV := .venv
CATALOGUES := issuer/http/pages/catalogues
PYTEST := $(VENV)/bin/pytest
PARALLEL := -n auto --dist loadgroup
SHORT := -m "not long"
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The processes that tests start load compiled modules instead of compiling each of them again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help

.PHONY: help up test short test-all test-long test-unit test-source test-integration test-acceptance test-browser test-faults lint \
  types secrets coverage soak fuzz mutants model terraform-check rehearse docs rpc viewer messages sbom bench noise profile clean

help: ## Print this list
	@awk -F ' *:.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  ARGS are passed on: make up ARGS="--port 9000", make test-unit ARGS="tests/unit/test_rules.py -k limits"'

up: $(VENV)/.runtime ## Run API, worker, Valkey and PostgreSQL in this terminal
	@$(VENV)/bin/issuer up --demo $(ARGS)

secrets: ## Write the secrets of docker-compose.yml to .env, once
	@deploy/compose/secrets.sh

test: lint ## Before every push: lint, types, all layers, one short round of faults (6 minutes on 2 cores)
	@$(MAKE) --no-print-directory -j2 types short

# Beside the types, which one core checks while the other one would be idle.
short: $(VENV)/.dev
	$(PYTEST) $(PARALLEL) $(SHORT) $(ARGS)

test-all: lint types ## The same and the tests marked long: exactness under load, every fault scenario
	$(PYTEST) $(PARALLEL) $(ARGS)

test-long: $(VENV)/.dev ## Only the tests marked long, which make test leaves out
	$(PYTEST) $(PARALLEL) -m long $(ARGS)

test-unit: $(VENV)/.dev ## While editing: nothing is started (10 seconds); one file: ARGS=tests/unit/test_rules.py
	$(PYTEST) -q $(or $(ARGS),-n 2 --dist loadgroup tests/unit tests/conformance -m "not servers and not long")

test-source: $(VENV)/.dev ## What is written: layers, terms, SQL, documents, deployment files
	$(PYTEST) -q $(or $(ARGS),tests/source)

test-integration: $(VENV)/.dev ## One part of the program on real Valkey, Redis and PostgreSQL servers
	$(PYTEST) $(PARALLEL) $(SHORT) $(or $(ARGS),tests/integration tests/conformance)

test-acceptance: $(VENV)/.dev ## The commands and the whole service as processes, under load
	$(PYTEST) $(PARALLEL) $(SHORT) $(or $(ARGS),tests/acceptance)

test-browser: $(VENV)/.dev ## The pages in headless Chromium
	$(PYTEST) $(PARALLEL) $(SHORT) $(or $(ARGS),tests/browser)

test-faults: $(VENV)/.dev ## Kill, freeze, wipe and restore parts of an installation; then check every promise
	$(PYTEST) $(PARALLEL) $(SHORT) $(or $(ARGS),tests/faults)

lint: $(VENV)/.dev ## Lint the code and check its format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev ## Check the types
	$(VENV)/bin/mypy

coverage: $(VENV)/.dev ## Report the lines and branches that no test reaches
	$(VENV)/bin/coverage run -m pytest $(ARGS)
	$(VENV)/bin/coverage combine -q
	$(VENV)/bin/coverage report

soak: $(VENV)/.dev ## Play random fault scenarios: make soak ARGS="--minutes 60 --seed 1"
	$(VENV)/bin/python -m tests.faults.soak $(ARGS)

fuzz: $(VENV)/.dev ## Fuzz the framing of HTTP through raw sockets: make fuzz ARGS="--requests 60000 --seed 2"
	$(VENV)/bin/python -m tests.fuzz $(ARGS)

mutants: $(VENV)/.dev ## Break a promise in a copy of the program and report which test fails
	$(VENV)/bin/python -m tests.faults.mutants $(ARGS)

model: $(VENV)/.dev ## Explore the model of the recovery: make model ARGS="--faults 3 --seconds 3600", or --each
	$(VENV)/bin/python -m tests.recovery_model $(ARGS)

terraform-check: $(VENV)/bin/python ## Check deploy/terraform/ against the types of Linode's provider
	$(VENV)/bin/python -m venv dist/terraform-check
	dist/terraform-check/bin/python -m pip install --quiet -r deploy/terraform/requirements.txt
	dist/terraform-check/bin/python deploy/terraform/check.py deploy/terraform/linode

rehearse: $(VENV)/bin/python ## As root: install deploy/cloud-init.yaml in a chroot, boot it, use it, destroy and restore it
	deploy/rehearsal/rehearse.sh dist/rehearsal

docs: $(VENV)/.dev ## Write docs/settings.md from the settings table
	$(VENV)/bin/python -m issuer.cli.settings_page > docs/settings.md

rpc: $(VENV)/.dev ## Generate the coupon service's code from proto/coupon/coupon.proto
	PATH="$(VENV)/bin:$$PATH" $(VENV)/bin/python -m grpc_tools.protoc -I proto \
	  --python_out=issuer/http/rpc --pyi_out=issuer/http/rpc \
	  --connectrpc_out=issuer/http/rpc --connectrpc_opt=protobuf=google coupon/coupon.proto

viewer: $(VENV)/bin/python ## Write the vendored API viewer from its npm package, as origin.json pins it
	$(VENV)/bin/python deploy/viewer.py

messages: $(VENV)/.dev ## Bring the catalogues of the pages up to date with the templates
	$(VENV)/bin/pybabel -q extract -F $(CATALOGUES)/babel.cfg --omit-header --no-location -o $(CATALOGUES)/pages.pot issuer
	for file in $(CATALOGUES)/*.po; do $(VENV)/bin/pybabel -q update -i $(CATALOGUES)/pages.pot -o $$file \
	  -l $$(basename $$file .po) --no-fuzzy-matching --ignore-obsolete --omit-header --width 110; done
	rm $(CATALOGUES)/pages.pot

sbom: $(VENV)/.sbom ## Write dist/sbom/: CycloneDX of what is installed to run, notices; fails for a licence that is not permissive
	rm -rf dist/sbom
	$(VENV)/bin/python -m venv dist/sbom/runtime
	dist/sbom/runtime/bin/python -m pip install --quiet -c constraints.txt --report dist/sbom/pip.json .
	dist/sbom/runtime/bin/python -m pip uninstall --quiet --yes issuer pip setuptools
	$(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --gather-license-texts --output-reproducible \
	  --spec-version 1.6 --output-format JSON --validate --output-file dist/sbom/issuer.cdx.json \
	  dist/sbom/runtime/bin/python
	$(VENV)/bin/python deploy/sbom.py dist/sbom/issuer.cdx.json dist/sbom/pip.json \
	  dist/sbom/runtime/lib/python*/site-packages dist/sbom/THIRD-PARTY-NOTICES.txt
	rm -rf dist/sbom/runtime dist/sbom/pip.json

bench: $(VENV)/.bench ## Measure everything on this machine (20 minutes); a quick look: ARGS=--quick
	$(VENV)/bin/python -m loadtest.bench $(ARGS)

noise: $(VENV)/.bench ## Measure what one tenant notices of another one that does all it may (3 minutes)
	$(VENV)/bin/python -m loadtest.noisy_neighbour $(ARGS)

profile: $(VENV)/.bench ## Write a flame graph of a loaded API process to loadtest/results/
	$(VENV)/bin/python -m loadtest.profile $(ARGS)

clean: ## Remove the virtual environment and caches; the data in .issuer stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@set -e; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    $$python -c 'import ensurepip, venv' 2>/dev/null || { \
	      echo "$$python cannot create virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	      exit 1; }; \
	    echo "creating $(VENV) with $$($$python -V)"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "Python 3.11 or newer is required and was not found; name it with: make PYTHON=/path/to/python up" >&2; exit 1

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing issuer and its dependencies into $(VENV)"
	@deploy/install.sh $(VENV) ''
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing issuer and the dependencies of its tests into $(VENV)"
	@deploy/install.sh $(VENV) '[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.sbom: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing the SBOM generator into $(VENV)"
	@deploy/install.sh $(VENV) '[sbom]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.bench: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing issuer and the dependencies of its benchmark into $(VENV)"
	@deploy/install.sh $(VENV) '[bench]'
	@touch $@ $(VENV)/.runtime
