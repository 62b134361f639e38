# Two commands do all the set-up: `make demo` and `make test`. They need make and Python >= 3.11, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Other servers, to be compared with.
PEERS := .peers
# The suite's own environment: other servers again, in the versions that pyproject.toml pins, and what draws plots.
BENCH := .bench

# Lines and branches together, in percent, of what decides about departures and of what carries it out.
COVERAGE := 97
COVERED := trioserve/core/*,trioserve/connection/*

# The tests are shared out between so many processes. The order stays random: a process takes the next tests as they
# come, and when it has none left, half of another's. One that has crashed or hung is not replaced; the other goes on.
PROCESSES := 2
SHARED := --numprocesses=$(PROCESSES) --dist=worksteal --max-worker-restart=0

FUZZ := 1000000

.PHONY: help demo test explore conformance fuzz mutations lint format bench bench-publish bench-parts hostile clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    serve a page that searches as you type, and shows what becomes of abandoned requests"
	@echo "make test    everything that must hold: style, types, the import rule, tests, coverage"
	@echo "make explore more of the property tests, with other examples each time; some ten minutes"
	@echo "make conformance  some 1,500 raw requests and what they must get, as a table by section of the RFCs; a minute"
	@echo "make fuzz    a million mutated requests thrown at the server in memory; some ten minutes (FUZZ=20000 for fewer)"
	@echo "make mutations  a hundred deliberate defects, one after another, and which test catches each, as a table; some minutes"
	@echo "make lint    style, types and the import rule only"
	@echo "make format  format the code, and repair what can be repaired"
	@echo "make bench   measure trioserve beside other servers: speed, and what clients cost that leave (OPTIONS=--quick for less)"
	@echo "make bench-publish  the same, for README and docs; a quarter of an hour"
	@echo "make bench-parts  measure parts: departures in every situation, leaks, routes, the engine, tests in memory"
	@echo "make hostile measure under attack: slow clients, thousands of idle ones, restarts, ten minutes of mixed traffic"
	@echo "make clean   remove everything that was made"
	@echo "make PYTHON=python3.12 ... takes another Python, TRIOSERVE_PORT=8001 make demo another port."

demo: $(INSTALLED)
	$(BIN)/trioserve demo

test: lint
	$(BIN)/coverage erase
	COVERAGE_PROCESS_START='$(CURDIR)/pyproject.toml' $(BIN)/pytest $(SHARED)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='$(COVERED)' --fail-under=$(COVERAGE)

explore: $(INSTALLED)
	$(BIN)/pytest --hypothesis-profile=explore -o faulthandler_timeout=900 tests/lifecycle/test_scripts.py tests/lifecycle/test_crowds.py tests/core

conformance: $(INSTALLED)
	$(BIN)/python -m tests.conformance

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz --inputs $(FUZZ)

mutations: $(INSTALLED)
	$(BIN)/python -m tests.mutations

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks $(OPTIONS)

bench-publish: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks --rounds 3 --seconds 2 --publish $(OPTIONS)

bench-parts: $(INSTALLED)
	$(BIN)/python -m benchmarks.departures
	$(BIN)/python -m benchmarks.leaks
	$(BIN)/python -m benchmarks.routing
	$(BIN)/python -m benchmarks.receiving
	$(BIN)/python -m benchmarks.testing

hostile: $(INSTALLED) $(PEERS)/.installed
	$(BIN)/python -m benchmarks.slow
	$(BIN)/python -m benchmarks.idle --peers $(PEERS)/bin/python
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.rolling

# Made anew, and not updated, so that it is what pyproject.toml says and nothing besides.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  f"trioserve needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}; try make PYTHON=python3.12")'
	@echo "Installing into $(VENV); that takes half a minute."
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --progress-bar off --editable '.[dev]'
	@touch $@

$(PEERS)/.installed: benchmarks/idle/peers.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Since 25.1 pip knows dependency groups.
$(BENCH)/.installed: pyproject.toml
	@echo "Installing other servers into $(BENCH); that takes a minute."
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --quiet --disable-pip-version-check 'pip>=25.1'
	$(BENCH)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --editable . --group bench
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(BENCH) bench-results build dist .coverage .coverage.* .hypothesis .*_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
