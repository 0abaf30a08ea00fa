# make run    environment, the simulated pilot, and its report
# make test   the same environment, then the tests
# make fuzz   parsers, windows, splits and manifests on 20,000 examples each (EXAMPLES=...), other ones at each run
# make faults the tests that plant faults, which write what happened into tests/README.md
# make lab    JupyterLab on the notebooks
# PYTHON=python3.12 chooses another Python (3.11 or newer); pip's own variables (PIP_INDEX_URL, ...) are honoured.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test faults fuzz lab clean

run: $(STAMP)
	$(BIN)/chromacc run pilot

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile

faults: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --write-faults $$(grep -l '[(,] *tried[,)]' tests/test_*.py)

fuzz: $(STAMP)
	$(BIN)/python -m pytest tests/test_fuzz.py -n auto --hypothesis-profile=many

lab: $(STAMP)
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "chromacc needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || echo not there). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache
