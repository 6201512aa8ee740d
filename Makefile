# Every verb makes the environment it needs. VENV=... to use another folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo check fix generate test test-slow showcase bench clean

setup: $(VENV)/dev.done

$(VENV)/base.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Understudy needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@echo "Making the environment in $(VENV) (once; a minute or so)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev.done: $(VENV)/base.done
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/base.done
	$(BIN)/understudy audit examples/demo/risk_score.yaml
	$(BIN)/understudy audit examples/demo/digit_reader.yaml

check: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check

fix: $(VENV)/dev.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(VENV)/dev.done
	$(BIN)/python tools/generate.py

test: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/pytest

test-slow: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

showcase: $(VENV)/dev.done
	$(BIN)/python tools/showcase.py

bench: $(VENV)/dev.done
	$(BIN)/python benchmarks/equation_solving.py
	$(BIN)/python benchmarks/boundary_nullspace.py
	$(BIN)/python benchmarks/knockoff_digits.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
