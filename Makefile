# Two commands for a fresh machine with git, make and Python 3.11 or later: `make transcribe`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# dev,lm: also the tests of language models, which need a C++ compiler and CMake
EXTRAS ?= dev
comma = ,
INSTALLED = $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: transcribe test test-slow lint clean

transcribe: $(VENV)/installed  ## set everything up and transcribe a real recording with the bundled model
	$(BIN)/hf-speechrec transcribe demo/examples/an4-seven-digits.flac --model an4

test: $(INSTALLED)  ## set everything up and pass the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-slow: $(INSTALLED)  ## the tests that take longer, and a package index
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(INSTALLED)  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(INSTALLED): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@
