# make demo    the main job on embedded defaults         make test    the whole test suite
# make setup   the environment alone                     make lint    style and types
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup demo test test-nodes test-fast fuzz lint bench docs clean
setup: $(STAMP)

# torch comes first and pinned: on a machine without a GPU give pip the CPU build: TORCH_ARGS="..."
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH_ARGS) $$(grep '^torch==' requirements.lock)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

demo: $(STAMP)
	$(BIN)/elder demo

# Two processes: one for what starts clusters and servers, one for the rest (see tests/side_by_side.py).
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not nodes and not slow"

test-nodes: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "nodes or slow"

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not cluster and not ranks and not nodes and not slow"

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --inputs 20000

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python bench/elder.py

docs: $(STAMP)
	$(BIN)/elder ls config-reference > docs/config.md
	for kind in edit tune compare study training; do \
		$(BIN)/elder ls config-schema --of $$kind > configs/schema/$$kind.json || exit 1; done

clean:
	rm -rf .elder elder-runs .pytest_cache .mypy_cache .ruff_cache
