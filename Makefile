# make demo   sets up the runtime (no torch) and runs the demo on the embedded clip
# make test   adds what tests need to the same environment and runs them
# make lint   ruff, pyright and import-linter

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
# The environment is right when it was made for this very pyproject.toml.
KEY := $(shell cksum < pyproject.toml | cut -d' ' -f1)

.PHONY: demo test lint clean

demo: $(VENV)/runtime-$(KEY)
	$(VENV)/bin/handmesh-demo --output out/demo

test: $(VENV)/test-$(KEY)
	$(VENV)/bin/python -m pytest

lint: $(VENV)/test-$(KEY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports

$(VENV)/runtime-$(KEY): | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar off --editable .
	touch $@

$(VENV)/test-$(KEY): | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar off --editable '.[test]'
	touch $@ $(VENV)/runtime-$(KEY)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "handmesh needs Python 3.11, 3.12 or 3.13, found none of them; install one, or name it: make demo PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) out build *.egg-info
