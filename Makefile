# make run    the whole comparison in the laboratory (about 10 minutes on two cores)
# make test   all tests, a process a core; PYTEST_ARGS="-x tests/grid" for other words of pytest
# make check  linter, formatter's check, types
# Each sets up .venv by itself. TORCH_INDEX=URL installs torch from another index first, for
# example https://download.pytorch.org/whl/cpu for the small CPU build.

PYTHON ?= python3
VENV ?= .venv
ARGS ?= grid=reward_specific
# A process holds up to 2 GiB. Whole files, since a file's tests share what takes long to build; in
# the order of tests/conftest.py, the long ones first.
PYTEST_ARGS ?= -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := soarbench baselines evaluators
# pydoclint, as a plug-in of flake8, since alone it cannot leave a rule out. Sections are optional here:
# a summary line says what is returned or yielded, and names say what they can. What an Args section says
# must be whole (ruff's D417) and true (DOC102).
DOCSTRINGS := --select=DOC --extend-ignore=DOC101,DOC103,DOC201,DOC402 --style=google \
	--arg-type-hints-in-docstring=False --skip-checking-short-docstrings=True \
	--skip-checking-raises=True --check-return-types=False --check-yield-types=False \
	--check-class-attributes=False --allow-init-docstring=True

.PHONY: run test check format setup clean

run: setup
	$(BIN)/python -m soarbench run $(ARGS)

test: setup
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/flake8 --isolated $(DOCSTRINGS) $(PACKAGES)
	$(BIN)/python -m pytest -q tests/config/test_every_yaml.py tests/config/test_every_field.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("soarbench needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -c constraints.txt --index-url $(TORCH_INDEX) torch torchvision)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
