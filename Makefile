# `make demo` and `make test` are all that a newcomer needs: both set up what is missing first.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SLOW   := ray or e2e

# Ray alone is 2,000 modules, and an instance a dozen processes that import it: where nobody may keep
# what was compiled, each of them compiles all of it again, and a start takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-optimize test check lint bench bench-optimize setup lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    set up, start an instance, serve a program on a local model, until Ctrl-C"
	@echo "             (DEMO_ONCE=1: end by itself; the last line is a JSON summary)"
	@echo "make demo-optimize  set up, search for a better program on three splits of a real task, print"
	@echo "             what each gained on held-out examples (COMPARE=1: DSPy's optimizers beside it)"
	@echo "make test    set up and run the whole suite"
	@echo "make check   format, lint, types, architecture, and the tests that need nothing"
	@echo "make bench   measure, and write benchmarks/RESULTS.md and results.json; 15 minutes on a quiet"
	@echo "             machine (the first time it installs what it compares with, in your cache folder)"
	@echo "make bench-optimize  evaluation and optimization beside DSPy's own, on simulated models, into"
	@echo "             benchmarks/RESULTS.md; 12 minutes on a quiet machine"
	@echo "make lock    write the locked requirements anew from pyproject.toml"
	@echo "make clean   remove the environment and caches"

# The stamp is as new as what it was made from: the second run does nothing.
$(READY): requirements/dev.txt requirements/uv.txt pyproject.toml scripts/setup.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) bash scripts/setup.sh
	@touch $@

setup: $(READY)

demo: $(READY)
	@DEMO_ONCE=$(DEMO_ONCE) $(BIN)/python -m examples.news_topic.demo

demo-optimize: $(READY)
	@$(BIN)/python -m examples.news_topic.optimize $(if $(COMPARE),--compare)

# What shares nothing runs two at a time; one Ray cluster at a time is enough for two cores.
# The second half runs whatever the first gives: one run shows all that is broken.
test: $(READY)
	@status=0; \
	bash scripts/step.sh "unit and integration tests" \
	  $(BIN)/pytest -n 2 --dist loadfile --durations=15 -m "not (bench or $(SLOW))" || status=1; \
	bash scripts/step.sh "tests on Ray, end to end" $(BIN)/pytest -n 0 --durations=25 -m "$(SLOW)" || status=1; \
	exit $$status

lint: $(READY)
	@bash scripts/step.sh "ruff format" $(BIN)/ruff format --check .
	@bash scripts/step.sh "ruff check" $(BIN)/ruff check .
	@bash scripts/step.sh "mypy" $(BIN)/mypy -p dspex_ray -p tests -p examples -p benchmarks
	@bash scripts/step.sh "import contracts" $(BIN)/lint-imports

check: lint
	@bash scripts/step.sh "fast tests" \
	  $(BIN)/pytest -q -m "not (integration or browser or bench or $(SLOW))"

bench: $(READY)
	@$(BIN)/python -m benchmarks.run

bench-optimize: $(READY)
	@$(BIN)/python -m benchmarks.optimize.run

LOCK := $(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11
lock: $(READY)
	$(LOCK) pyproject.toml --all-extras --group dev --group smollm2 -o requirements/dev.txt
	$(LOCK) pyproject.toml --all-extras --group smollm2 -c requirements/dev.txt -o requirements/run.txt
	echo uv | $(LOCK) - -c requirements/dev.txt -o requirements/uv.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
