# make run    the whole comparison in the laboratory (6 to 8 minutes on two cores)
# make test   all tests, four processes for two cores; PYTEST_ARGS="-x tests/grid" for other words of pytest
# make check  linter, formatter's check, types, the documentation
# make docs   the documentation as a site, into build/site; warnings are errors
# make gpu    GPU-marked tests, then speed and memory of everything on a CUDA device (docs/gpu.md)
# Each sets up .venv by itself. Without an NVIDIA GPU it takes torch's small CPU build, where that index
# answers; TORCH_INDEX=URL takes torch from another index, TORCH_INDEX= from pip's own.

PYTHON ?= python3
VENV ?= .venv
ARGS ?= grid=reward_specific
GPU_ARGS ?=
# A process holds up to 2 GiB. Whole files, since a file's tests share what takes long to build; in
# the order of tests/conftest.py, the long ones first.
PYTEST_ARGS ?= -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CPU_INDEX := https://download.pytorch.org/whl/cpu
PACKAGES := soarbench baselines evaluators
# pydoclint, as a plug-in of flake8, since alone it cannot leave a rule out. Sections are optional here:
# a summary line says what is returned or yielded, and names say what they can. What an Args section says
# must be whole (ruff's D417) and true (DOC102).
DOCSTRINGS := --select=DOC --extend-ignore=DOC101,DOC103,DOC201,DOC402 --style=google \
	--arg-type-hints-in-docstring=False --skip-checking-short-docstrings=True \
	--skip-checking-raises=True --check-return-types=False --check-yield-types=False \
	--check-class-attributes=False --allow-init-docstring=True

# With wheels/, where tools/gpu_bundle.sh put it, make gpu needs no network and no virtual environment:
# it goes beside the torch of PYTHON.
ifneq ($(wildcard wheels/*.whl),)
GPU_SITE := wheels/site
GPU_STAMP := wheels/.installed
GPU_PYTHON := PYTHONPATH=$(CURDIR)/$(GPU_SITE):$(CURDIR) $(PYTHON)
else
GPU_STAMP := $(STAMP)
GPU_PYTHON := $(BIN)/python
endif

# On a Mac pip's own torch is the small one; a mirror or a folder of wheels is meant by who set it.
define CHOOSE_INDEX
if test "$$(uname -s)" = Linux && ! test -e /dev/nvidiactl && ! $(BIN)/python -m pip config list | grep -qE "(index-url|find-links)="; then \
		if $(BIN)/python -c 'import urllib.request; urllib.request.urlopen("$(CPU_INDEX)/torch/", timeout=10)' 2>/dev/null; then \
			index=$(CPU_INDEX); echo "no NVIDIA GPU: torch is the CPU build of $$index"; \
		else echo "no NVIDIA GPU, but $(CPU_INDEX) does not answer: torch is that of pip's own index"; fi; \
	fi;
endef

.PHONY: run test check docs gpu format setup clean

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
	$(BIN)/python tools/docs.py

docs: setup
	$(BIN)/python tools/docs.py

# A failing test does not keep the numbers from being measured, but make fails all the same.
gpu: $(GPU_STAMP)
	$(GPU_PYTHON) -m soarbench bench gpu --dry-run $(GPU_ARGS)
	$(GPU_PYTHON) -m pytest -q -m gpu tests/gpu; tests=$$?; \
		$(GPU_PYTHON) -m soarbench bench gpu $(GPU_ARGS) && exit $$tests

wheels/.installed: $(wildcard wheels/*.whl)
	$(PYTHON) -m pip install -q --no-index --no-deps --no-cache-dir --upgrade --target $(GPU_SITE) wheels/*.whl
	touch $@

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("soarbench needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	index="$(TORCH_INDEX)"; \
	$(if $(filter undefined,$(origin TORCH_INDEX)),$(CHOOSE_INDEX)) \
	test -z "$$index" || $(BIN)/python -m pip install -c constraints.txt --index-url "$$index" torch torchvision
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
