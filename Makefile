# `make demo` and `make test` need Python >= 3.11 and make, nothing else: they create .venv by themselves.
PYTHON ?= python3
VENV   ?= .venv
RUN    ?= runs/demo
BIN    := $(VENV)/bin

.PHONY: demo test faults check lint types bench rates copies priors clean

demo: $(VENV)/.installed          ## all methods on the embedded phantom: table and report
	$(BIN)/bench run --methods all --fractions 0.1 --folds 2 --evaluate finetune,linear,knn --out $(RUN)

test: lint types                  ## what CI runs: lint, types, tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

faults: $(VENV)/.installed        ## a real SLURM (slurm-wlm and munge, as root), and a grid killed again and again
	$(BIN)/python -m pytest -q -m long

check: test                       ## the same, by the name a developer may look for

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

copies: $(VENV)/.installed        ## what the leak audit finds of planted copies (minutes): the table of docs/protocol.md
	$(BIN)/python docs/measure/copies.py --volumes 5000 --copies 100

bench: $(VENV)/.installed         ## every target of speed measured again, beside the last figures (minutes): docs/performance.md
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,peers]'
	$(BIN)/python docs/measure/speed.py --short

priors: $(VENV)/.installed        ## how well residual-SSL's priors find a lesion (minutes): the table of docs/methods.md
	$(BIN)/python docs/measure/priors.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "voxbench needs Python >= 3.11: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

rates: $(VENV)/.installed         ## the simulations behind docs/statistics.md, about an hour on one core
	for script in coverage claims others; do $(BIN)/python docs/simulate/$$script.py || exit 1; done

clean:
	rm -rf $(VENV) runs
