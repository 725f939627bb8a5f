# make up     everything in one terminal: needs Python 3.11+ and make, nothing else
# make test   everything that CI runs
# make lint   the quick half of it
# make soak   breaks an installation again and again: make soak ARGS="--minutes 60 --seed 1"
# make mutants  breaks a promise in a copy of the program and tells which test noticed
# make rpc    makes the code of the coupon service from its contract, proto/coupon/coupon.proto
# make bench  measures everything on this machine, some 20 minutes; make bench ARGS=--quick for a look
# make profile  leaves a flame graph of an API process under load in loadtest/results/
# make clean  removes the virtual environment and caches, never the data in .issuer
#
# ARGS are passed on: make up ARGS="--port 9000 --workers 2", make test ARGS="tests/unit -k rules"

VENV := .venv
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: up test lint coverage soak mutants docs rpc bench profile clean

up: $(VENV)/.runtime
	@$(VENV)/bin/issuer up --demo $(ARGS)

test: lint
	$(VENV)/bin/pytest $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

coverage: $(VENV)/.dev
	$(VENV)/bin/coverage run -m pytest $(ARGS)
	$(VENV)/bin/coverage combine -q
	$(VENV)/bin/coverage report

soak: $(VENV)/.dev
	$(VENV)/bin/python -m tests.faults.soak $(ARGS)

mutants: $(VENV)/.dev
	$(VENV)/bin/python -m tests.faults.mutants $(ARGS)

docs: $(VENV)/.dev
	$(VENV)/bin/python -m issuer.cli.settings_page > docs/settings.md

rpc: $(VENV)/.dev
	PATH="$(VENV)/bin:$$PATH" $(VENV)/bin/python -m grpc_tools.protoc -I proto \
	  --python_out=issuer/http/rpc --pyi_out=issuer/http/rpc \
	  --connectrpc_out=issuer/http/rpc --connectrpc_opt=protobuf=google coupon/coupon.proto

bench: $(VENV)/.bench
	$(VENV)/bin/python -m loadtest.bench $(ARGS)

profile: $(VENV)/.bench
	$(VENV)/bin/python -m loadtest.profile $(ARGS)

$(VENV)/bin/python:
	@set -e; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    $$python -c 'import ensurepip, venv' 2>/dev/null || { \
	      echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	    echo "making $(VENV) with $$($$python -V)"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "Python 3.11 or newer is needed and was not found; name it with: make PYTHON=/path/to/python up" >&2; exit 1

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing issuer and what it needs into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing issuer and what its tests need into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.bench: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing issuer and what its benchmark needs into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
