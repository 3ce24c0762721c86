# `make demo` and `make test` set everything up on a machine that has Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINS := -c constraints.txt

.PHONY: demo test fuzz lint types imports wheel clean

# Continues what runs/digits holds: a second call trains nothing again.
demo: $(VENV)/demo.stamp
	$(BIN)/maqd run digits --resume

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest

# Half a minute for every event reader; docs/events-fuzzing.md has the long runs.
fuzz: $(VENV)/test.stamp
	$(BIN)/python tests/fuzzing.py --seconds 30

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy and the import check read the installed wheel: only there do all folders stand in one package. So mypy must not
# start in this folder, where it would find half of it first.
types: $(VENV)/wheel.stamp
	cd $(VENV)/wheel && ../bin/python -m mypy --config-file ../../pyproject.toml --python-executable bin/python -p maqd_snn

imports: $(VENV)/wheel.stamp
	.ci/imports $(VENV)

wheel: $(VENV)/wheel.stamp

# torch is installed first and alone, so that the pinned build is taken and nothing else chooses another.
$(VENV)/base.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(PINS) setuptools wheel
	$(PIP) install $(PINS) torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp pyproject.toml
	$(PIP) install $(PINS) --no-build-isolation -e '.[all]'
	touch $@

# SpikingJelly, NeuroBench and norse ask for torchvision and torchaudio, which have no CPU build; what we use of them needs
# loguru (the first) and snnTorch (the second) alone.
$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) install $(PINS) --no-build-isolation -e '.[all,dev]'
	$(PIP) install $(PINS) --no-deps spikingjelly loguru neurobench norse
	touch $@

SOURCES := $(shell find maqd_snn neuromorphic datasets benchmarks -name '*.py' -o -name '*.j2' -o -name '*.css' -o -name '*.js')

$(VENV)/wheel.stamp: $(VENV)/test.stamp $(SOURCES) pyproject.toml .ci/wheel
	.ci/wheel $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
