PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
PIP_OPTIONS := --quiet --disable-pip-version-check
CLUSTER := tests/conversion/test_distributed.py
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --ignore=$(CLUSTER)

.PHONY: demo test test-cluster test-slow test-lowest lint docs report-picture clean

# Tests import little of all that is installed: each module is compiled when it is first imported, and then kept.
test test-cluster test-slow: export PYTHONDONTWRITEBYTECODE =

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

# ONNX Runtime for browsers, with which a test opens an exported page; where npm or its registry is out of reach, that
# test is skipped.
node_modules/.test:
	npm install --silent --no-save --no-package-lock --ignore-scripts --fetch-retries=0 \
		--fetch-timeout=30000 "onnxruntime-web@>=1.20" && touch $@ || echo "no ONNX Runtime for browsers: one test will be skipped"

demo: $(VENV)/.demo
	$(BIN)/lookalike demo --output demo-output --overwrite

test: $(VENV)/.test
	$(MAKE) --jobs=2 lint test-cluster node_modules/.test
	$(SIDE_BY_SIDE) -m "not slow"

# What takes longest, one test in a hundred: whole demonstrations and experiments, trainings and clusters that are killed
# and taken up again, the largest networks. A release and the CI of pull requests need both.
test-slow: $(VENV)/.test
	$(SIDE_BY_SIDE) -m slow
	$(BIN)/python -m pytest $(CLUSTER) -m slow

# Not beside the other tests: its nodes take both cores, though they wait for each other much of the time.
test-cluster: $(VENV)/.test
	$(BIN)/python -m pytest $(CLUSTER) -m "not slow"

# The tests with the oldest versions that pyproject.toml admits, in an environment of their own.
test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tools/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install $(PIP_OPTIONS) -c $(LOWEST)/constraints.txt -e ".[test]"
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal --ignore=$(CLUSTER) -m "not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/vague_names.py

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# The picture of a report in the documentation, from the demonstration's report.
report-picture: $(VENV)/.test demo
	$(BIN)/python tools/report_picture.py demo-output/report.html

clean:
	rm -rf $(VENV) $(LOWEST) node_modules site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
