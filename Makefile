PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip -qq

.PHONY: setup demo batch-demo serve test slow lint format types mutants bench report figures release

setup: $(STAMP)

# torch comes first and pinned: a CPU wheel at hand is taken, and nothing later replaces it.
$(STAMP): pyproject.toml constraints.txt
	@echo 'setting up $(VENV) (a minute or two on the first run)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/stagevar demo -o out

batch-demo: setup
	$(BIN)/stagevar batch examples/rows.jsonl -o out/batch

# The shipped model at http://127.0.0.1:8000/v1, until Ctrl-C.
serve: setup
	$(BIN)/stagevar serve

test: setup
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not slow'

slow: setup
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

# How many of N faults, drawn at random with a seed, the tests of the engine, accelerators and comparisons catch.
N ?= 100
SEED ?= 0
mutants: setup
	$(BIN)/python benchmarks/mutants.py --count $(N) --seed $(SEED)

bench: setup
	$(BIN)/python benchmarks/plain.py
	$(BIN)/python benchmarks/busy.py
	$(BIN)/python benchmarks/front.py
	$(BIN)/python benchmarks/ablations.py
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/server.py
	$(BIN)/python benchmarks/load.py

# Every accelerator on the models of three worlds: docs/stagevar.md has the fronts, docs/bench.md the ranks, and
# docs/accelerators.md what is claimed beside what was measured.
CAPTIONS ?= 60
report: setup
	$(BIN)/python benchmarks/front.py --captions $(CAPTIONS)
	$(BIN)/python benchmarks/front.py --captions $(CAPTIONS) --model models/photos
	$(BIN)/python benchmarks/front.py --captions $(CAPTIONS) --model models/texture
	$(BIN)/python benchmarks/report.py

figures: setup
	$(BIN)/python benchmarks/report.py
	$(BIN)/stagevar models --rewrite README.md
	$(BIN)/python docs/api.py

# Wheel and source distribution in dist/, checked as CI checks them. The changelog must speak of the version.
release: setup lint types test
	@version=$$($(BIN)/stagevar --version | cut -d' ' -f2); grep -q "^## $$version" CHANGELOG.md || \
		{ echo "CHANGELOG.md has no entry for $$version"; exit 1; }
	.ci/wheel dist
