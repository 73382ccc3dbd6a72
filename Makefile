# make demo         sets up the runtime (no torch) and runs the demo on the embedded clip
# make test         adds what tests need to the same environment and runs them
# make lint         ruff, pyright and import-linter
# make lock         resolves every dependency anew for each Python and writes constraints/
# make test-latest  runs the tests with the newest releases that pyproject.toml allows, in an environment of its own

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
# The version of every dependency, by Python version.
PINS := constraints/py$(shell $(or $(wildcard $(VENV)/bin/python),$(PYTHON),false) -c 'import sys; print(*sys.version_info[:2], sep="")').txt
# The environment is right when it was made for these very two files.
KEY := $(shell cat pyproject.toml $(PINS) 2>/dev/null | cksum | cut -d' ' -f1)
# Builds, too, take what is pinned: older releases of pip read the first variable for them, newer ones the second.
PINNED := PIP_CONSTRAINT=$(PINS) PIP_BUILD_CONSTRAINT=$(PINS)
PIP_INSTALL := -m pip install --disable-pip-version-check --quiet --progress-bar off

.PHONY: demo test test-latest lint lock clean

demo: $(VENV)/runtime-$(KEY)
	$(VENV)/bin/handmesh-demo --output out/demo

test: $(VENV)/test-$(KEY)
	$(VENV)/bin/python -m pytest

test-latest:
	$(MAKE) VENV=$(VENV)-latest $(VENV)-latest/bin/python
	$(VENV)-latest/bin/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable '.[test]'
	$(VENV)-latest/bin/python -m pytest

lint: $(VENV)/test-$(KEY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports

# Linux's packages are a superset of macOS's and of Windows's but for a few, which stay free there.
lock:
	$(MAKE) VENV=$(VENV)-lock $(VENV)-lock/bin/python
	$(VENV)-lock/bin/python $(PIP_INSTALL) --upgrade uv
	for version in 3.11 3.12 3.13; do \
		$(VENV)-lock/bin/uv pip compile --no-config --quiet --upgrade --no-annotate --custom-compile-command "make lock" \
			--python $(VENV)-lock/bin/python --python-version $$version --python-platform x86_64-manylinux_2_35 \
			--extra test pyproject.toml --output-file constraints/py$$(echo $$version | tr -d .).txt || exit; \
	done

$(VENV)/runtime-$(KEY): | $(VENV)/bin/python
	$(PINNED) $(VENV)/bin/python $(PIP_INSTALL) --editable .
	touch $@

$(VENV)/test-$(KEY): | $(VENV)/bin/python
	$(PINNED) $(VENV)/bin/python $(PIP_INSTALL) --editable '.[test]'
	touch $@ $(VENV)/runtime-$(KEY)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "handmesh needs Python 3.11, 3.12 or 3.13, found none of them; install one, or name it: make demo PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lock out build *.egg-info
