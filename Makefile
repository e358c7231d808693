# make train   set up, then train plain and variational ArcFace on generated faces and compare them
# make check   set up, then run the fast tests and everything that reads the source: three minutes on two cores
# make test    set up, then run all tests: about twelve minutes on two cores
# make peers   set up a second environment with insightface, and see that it loads what we export
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: env train check test peers lint docs clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps timm
	touch $@

train: env
	$(BIN)/vplface study quickstart

PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# mypy takes one core for half a minute, so it runs beside the tests.
check: env
	@mkdir -p build; $(MAKE) --no-print-directory lint > build/lint.log 2>&1 & lint=$$!; \
	$(PYTEST) -m 'not slow and not grid and not gpu' tests/unit; tests=$$?; \
	wait $$lint; lint=$$?; cat build/lint.log; exit $$((tests + lint))

test: env
	$(PYTEST)

# insightface asks for opencv-python, which cannot share an environment with opencv-python-headless.
.venv-peers/installed: Makefile constraints.txt
	$(PYTHON) -m venv --clear .venv-peers
	PIP_CONSTRAINT=constraints.txt .venv-peers/bin/python -m pip install --disable-pip-version-check --quiet \
	    numpy onnx onnxruntime opencv-python-headless requests scikit-image tqdm
	.venv-peers/bin/python -m pip install --disable-pip-version-check --quiet --no-deps insightface==2.1
	touch $@

peers: env .venv-peers/installed
	$(BIN)/python tests/integration/peers/insightface_export.py build/peers
	.venv-peers/bin/python tests/integration/peers/insightface_load.py build/peers

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/source_rules.py
	$(BIN)/python tools/plain_english.py

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-peers build dist site
