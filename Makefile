# make demo     audit the built-in model with the example's edits (report.html, report.json)
# make serve    run the service on http://127.0.0.1:8000
# make test     run the tests
# make bench    editing, probing and tuning against the plain ways, claims with a long history, the cost of the
#               service, a thousand audits at once; last, memory and the curve of up to 10,000 edits (two hours)
# make chaos    run audits while everything breaks (SECONDS=120 per deployment, SEED=7), check the promises
# make check    format, lint, types, import directions
# make almanac  train the built-in model anew, into build/almanac (ENGLISH=FILE: with its text), and measure it
# make clean    remove what was built here; the environment in .venv and holdfast-data stay

VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
WITH_ENGLISH := $(if $(ENGLISH),--english '$(ENGLISH)')
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo serve test bench chaos check almanac clean python

demo: $(VENV)/runtime.stamp
	$(BIN)/holdfast demo

serve: $(VENV)/runtime.stamp
	$(BIN)/holdfast serve

test: $(VENV)/development.stamp
	$(BIN)/python -m pytest

bench: $(VENV)/development.stamp
	$(BIN)/python -m benchmarks.editing
	$(BIN)/python -m benchmarks.probing
	$(BIN)/python -m benchmarks.tuning
	$(BIN)/python -m benchmarks.claims
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.many_audits
	$(BIN)/python -m benchmarks.editing --memory
	mkdir -p build
	$(BIN)/python -m benchmarks.editing --curve --plot build/editing-curve.png

chaos: $(VENV)/development.stamp
	$(BIN)/python -m tests.chaos.run --seconds $(or $(SECONDS),120) --seed $(or $(SEED),7)

check: $(VENV)/development.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

almanac: $(VENV)/runtime.stamp
	$(BIN)/python -m services.worker.almanac.pretrain --out build/almanac $(WITH_ENGLISH)
	$(BIN)/python -m services.worker.almanac.measure --model build/almanac $(WITH_ENGLISH)

clean:
	rm -rf build report.html report.json *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# torch comes first and pinned, so that a build for the CPU that is at hand is taken as it is; a
# range, or an extra that names torch, would let pip prefer a newer one with all of CUDA.
$(VENV)/runtime.stamp: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) $(TORCH)
	$(INSTALL) -e '.[worker,postgres]'
	touch $@

$(VENV)/development.stamp: $(VENV)/runtime.stamp
	$(INSTALL) -e '.[worker,postgres,dev]'
	touch $@

$(BIN)/pip:
	python=$$($(MAKE) --silent --no-print-directory python) && $$python -m venv --clear $(VENV)

# The first Python that fits, judged by running it: a version manager's shim may exist and not run.
python:
	@for python in python3.12 python3.11 python3; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	      >/dev/null 2>&1; then echo $$python; exit 0; fi; \
	done; \
	echo 'Holdfast needs Python 3.11 or 3.12 with its venv module: none of python3.12, python3.11, python3 is.' >&2; \
	exit 1
