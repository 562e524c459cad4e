PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_OPTIONS := --quiet --disable-pip-version-check

.PHONY: demo test test-cluster lint docs clean

# Tests import little of all that is installed: each module is compiled when it is first imported, and then kept.
test test-cluster: export PYTHONDONTWRITEBYTECODE =

# Each stamp stands for one finished installation; an interrupted one is taken up again.
$(VENV)/.demo:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_OPTIONS) -e ".[demo]"
	touch $@

$(VENV)/.test:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_OPTIONS) --no-compile -e ".[test,lint]"
	touch $@ $(VENV)/.demo

$(VENV)/.docs:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_OPTIONS) -e ".[docs]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/lookalike demo --output demo-output --overwrite

test: $(VENV)/.test
	$(MAKE) --jobs=2 lint test-cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/conversion/test_distributed.py

# Not beside the other tests: its nodes take both cores, though they wait for each other much of the time.
test-cluster: $(VENV)/.test
	$(BIN)/python -m pytest tests/conversion/test_distributed.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/vague_names.py

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
