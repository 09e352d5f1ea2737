# Each target sets up .venv by itself: Python 3.11 to 3.13 and make are all that a fresh machine needs.
#
#   make rehearse ARGS="--chunks 2000"    arguments for `runbook rehearse`
#   make test JOBS=3 SAMPLE=200           processes for pytest (two a core: they wait for servers half of the time); chunks of the sample
#   make test-slow HEAVY=1                processes of the longer suites
#   make test-attacks ARGS="-k evidence"   a part of the attacks
#   make test-faults ROUNDS=200 SEED=1    rounds of the fault campaign, and what they are drawn from
#   make test-fleet FLEET=8 KILLS=2        rows of the fleet, and how often it is killed
#   make test-long REHEARSALS=3           rehearsals in a row
#   make test-fuzz INPUTS=10000 SEED=1    generated inputs, and what they are drawn from; EXAMPLES=150 through the store
#   make test-memory LARGE=20000          chunks of the larger of the two migrations that are measured
#   make test-scale CHUNKS=1000000        chunks that are simulated
#   make PYTHON=python3.12 …              the Python to build .venv with

PYTHON ?= python3
UV ?= uv
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(16, 2 * (os.cpu_count() or 2)))')
HEAVY ?= 2
SAMPLE ?= 300
LARGE ?= 40000
CHUNKS ?= 10000000
REHEARSALS ?= 10
FLEET ?= 60
KILLS ?= 10
ROUNDS ?= 40
INPUTS ?= 10000
EXAMPLES ?= 150
SEED ?= 20261128
ARGS ?=

# Python is started hundreds of times: what it compiles is kept, also where the environment forbids it. `make clean` removes it.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
AUDIT := .audit
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off
# Notebooks run under nbval in the same pytest session as the tests. loadfile keeps the cells of a notebook, which share a
# kernel, in one process and in order (loadgroup groups nothing with pytest 9.2: pytest-xdist issue 1386).
# Those that need others first (14, 22 to 27, 30, 50 to 53; papermill executes them in a rehearsal of `make test`) or have
# their cells executed by tests/test_troubles_notebooks.py (40 to 48) run under nbval in test-slow.
LATER := $(wildcard $(addprefix notebooks/,14* 22* 23* 24* 25* 26* 27* 30* 4* 5*))
NOTEBOOKS := $(filter-out $(LATER),$(wildcard notebooks/*.ipynb))
CODE := $(wildcard helpers tests benchmarks notebooks docs)

.PHONY: help rehearse rehearse-servers test test-more test-slow test-attacks test-kill test-faults test-fuzz test-fleet test-long test-memory test-scale test-compat test-cloud audit lab lint ruff docs bench lock clean

help:
	@echo "make rehearse | rehearse-servers | test | test-more | test-slow | test-attacks | test-kill | test-faults | test-fuzz | test-fleet | test-long | test-memory | test-scale | test-compat | test-cloud | audit | lab | lint | docs | bench | lock | clean    (docs/setup.md says what each does)"

rehearse: $(READY)
	$(BIN)/runbook rehearse $(ARGS)

rehearse-servers: $(READY)
	$(BIN)/runbook rehearse --servers $(ARGS)

# In the order of collection, in which tests/conftest.py puts the longest files first.
test: ruff
	RUNBOOK_SAMPLE_CHUNKS=$(SAMPLE) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	  $(if $(NOTEBOOKS),--nbval-lax --nbval-current-env) -m "not slow and not more" tests --ignore=tests/compat $(NOTEBOOKS) $(ARGS)

# The tests marked `more`: each takes seconds of processor time, beside a quicker one of the same in `make test`. CI runs both.
test-more: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "more and not slow" tests --ignore=tests/compat $(ARGS)

# The tests marked `slow`: full-size samples, near-duplicates of a quicker test, sources served in every kind.
test-slow: $(READY)
	$(BIN)/python -m pytest -n $(HEAVY) --dist loadfile -m slow tests --ignore=tests/compat --ignore=tests/heavy $(ARGS)
	RUNBOOK_SAMPLE_CHUNKS=$(SAMPLE) $(BIN)/python -m pytest -n $(HEAVY) --dist loadfile --nbval-lax --nbval-current-env $(LATER)

# Old versions of Chroma from PyPI, in environments that are kept in .compat/. Where one cannot be made its tests are
# skipped with the reason; in CI that is a failure. `make test` leaves this folder out.
test-compat: $(READY)
	$(BIN)/python -m tests.compat.environments || [ -z "$$CI" ]
	$(BIN)/python -m pytest -n $(HEAVY) --dist worksteal tests/compat $(ARGS)

# Every attack that was tried, with a table of how each came out; the fast ones are part of `make test`.
test-attacks: $(READY)
	$(BIN)/python -m tests.attacks -q -n $(HEAVY) --dist loadfile $(ARGS)

# Minutes each; not part of `make test`. -rP, -s: what they saw is worth reading when they pass, too.
test-kill: $(READY)
	$(BIN)/python -m pytest -n $(HEAVY) -rP tests/heavy/test_killed_*.py $(ARGS)

test-cloud: $(READY)
	$(BIN)/python -m pytest -s tests/heavy/test_out_of_cloud.py $(ARGS)

# Faults of every kind, drawn from SEED: every chunk is compared after each round. ONLY=n repeats one round.
test-faults: $(READY)
	$(BIN)/python -m tests.faults.campaign --rounds $(ROUNDS) --seed $(SEED) $(if $(CI),--minutes 8) $(if $(ONLY),--only $(ONLY)) $(ARGS)

# A fleet of databases of mixed versions, some broken, killed at random moments: hours at 60 rows.
test-fleet: $(READY)
	RUNBOOK_FLEET_ROWS=$(FLEET) RUNBOOK_FLEET_KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/heavy/test_fleets_migrate_and_survive_kills.py $(ARGS)

# An hour of monitoring in 360 samples, and ten rehearsals in a row: what grows from one to the next fails.
test-long: $(READY)
	RUNBOOK_LONG_REHEARSALS=$(REHEARSALS) $(BIN)/python -m pytest -s tests/heavy/test_long_runs_stay_level.py $(ARGS)

# Real files of every kind, changed as SEED says, through every parser. ONLY='nginx -T/5' repeats one input. Then chunks, names,
# schemas and parameters through the store, more of them than in `make test`.
test-fuzz: $(READY)
	$(BIN)/python -m tests.fuzz.campaign --inputs $(INPUTS) --seed $(SEED) $(if $(ONLY),--only '$(ONLY)') $(ARGS)
	$(if $(ONLY),,RUNBOOK_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q tests/test_any_chunk_is_exact_or_named.py)

# Ten million chunks between stand-ins that only count: our own code, its ledger, its memory. Twenty minutes.
test-scale: $(READY)
	RUNBOOK_SCALE_CHUNKS=$(CHUNKS) $(BIN)/python -m pytest -s tests/heavy/test_ten_million_chunks_are_simulated.py $(ARGS)

test-memory: $(READY)
	RUNBOOK_MEMORY_LARGE=$(LARGE) $(BIN)/python -m pytest -s tests/heavy/test_memory_is_bounded.py $(ARGS)

# The repository is the root, so that links and the file browser reach reports/. .jupyter/ asks for no news: such machines
# often have no way out, and nobody at night needs a pop-up.
lab: $(READY)
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
	  $(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" notebooks/00_index.ipynb $(ARGS)

lint: ruff
	$(BIN)/mypy

ruff: $(READY)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

# Tools that look at the repository from outside, in an environment of their own. Where they cannot be installed, or cannot
# reach their database, a line says NOT EXERCISED and why.
audit: $(READY) $(AUDIT)/.ready
	$(BIN)/python -m tests.audit $(AUDIT)/bin

$(AUDIT)/.ready: requirements-audit.lock
	@rm -rf $(AUDIT) && $(BIN)/python -m venv $(AUDIT)
	@if $(AUDIT)/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off --require-hashes \
	    -r requirements-audit.lock >$(AUDIT)/install.log 2>&1; then touch $@; fi

# docs/cli.md, docs/parameters.md and parameters/parameters.schema.json; tests/test_docs.py fails where they drift.
docs: $(READY)
	$(BIN)/python -m docs.generate

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

# Pins stay as they are where they still fit; `make lock ARGS=--upgrade` takes the newest of everything.
lock:
	@command -v $(UV) >/dev/null || { echo "make lock needs uv (https://docs.astral.sh/uv), or UV=<its path>" >&2; exit 1; }
	$(UV) pip compile requirements.in --universal --generate-hashes --python-version 3.11 --no-strip-extras --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet -o requirements.lock $(ARGS)
	$(PYTHON) .ci/plain_names.py
	$(UV) pip compile requirements-audit.in --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet -o requirements-audit.lock $(ARGS)

# Runs under reports/ and snapshots under workspace/ are evidence: they are never removed here.
clean:
	rm -rf $(VENV) $(AUDIT) .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find helpers tests benchmarks notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true

# A .venv that works is kept and brought up to the lock. What pip says goes to a file; its errors are shown.
$(READY): requirements.lock pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for python in "$(PYTHON)" python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then \
	      found=$$python; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: found no Python 3.11, 3.12 or 3.13. Install one, or say where it is: make PYTHON=PATH" >&2; exit 1; \
	  fi; \
	  echo "Setting up $(VENV) with $$found. This takes a minute or two, once."; \
	  rm -rf $(VENV); \
	  if ! "$$found" -m venv $(VENV) >/dev/null; then \
	    rm -rf $(VENV); \
	    echo "error: $$found cannot make $(VENV). On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	  fi; \
	fi
	@if ! { $(PIP) --require-hashes -r requirements.lock && $(PIP) --no-build-isolation --no-deps -e .; } \
	    >$(VENV)/install.log 2>&1; then \
	  grep '^ERROR' $(VENV)/install.log | tail -n 3 >&2; \
	  echo "error: the installation failed. The whole story is in $(VENV)/install.log" >&2; exit 1; \
	fi
	@touch $(READY)
