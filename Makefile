# make train   set up, then train plain and variational ArcFace on generated faces and compare them
# make test    set up, then run the tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: env train test lint docs clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps timm
	touch $@

train: env
	$(BIN)/vplface study quickstart

test: env
	$(BIN)/pytest --numprocesses 2

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist site
