# pyray: everything a newcomer, a developer or CI needs, from a fresh clone.
#
#   make demo          build pyray and the Cython examples, then run every example
#   make test          the same, then the tests         (ARGS="-k store" goes to pytest)
#   make test-slow     the tests that take minutes each
#   make test-storm    the storms of docs/reliability.md in full size: forty minutes
#   make test-soak     ten minutes of mixed work    (PYRAY_SOAK_SECONDS=3600 for an hour)
#   make test-root     attacks by other users, real cgroups, namespaces: as root
#   make test-sanitize the tests with the core under AddressSanitizer and UBSan, in a copy of the tree
#   make test-tsan     the core's queues, reference counts and allocators under ThreadSanitizer
#   make fuzz          what reads values, under a coverage-guided fuzzer  (ARGS="--inputs 10000000")
#   make check         linters, types, stubs            (make -k check: all of them, come what may)
#   make format        let ruff format and fix what it can
#   make docs          docs/api.md, from the docstrings
#   make bench         the benchmarks: a table, JSON and pictures in build/benchmarks  (ARGS=…)
#   make bench-peers   the same beside Ray, Dask and joblib, in a virtual environment of their own
#   make clean         remove what was built;  make distclean: the virtual environments too
#
# PYTHON picks the interpreter (3.11 to 3.13), VENV the virtual environment.  PYRAY_DEBUG=1 and
# PYRAY_SANITIZE=address|undefined build the core accordingly, PYRAY_KILL_POINTS=1 with all kill points;
# going back rebuilds it.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

# No test run should last longer; each test has a limit of its own, in pyproject.toml.
TEST_LIMIT ?= 3000

bin     := $(abspath $(VENV))/bin
python  := $(bin)/python
pip     := $(python) -m pip --disable-pip-version-check -qq install
stamps  := $(abspath $(VENV))/.stamps
say     := @printf '== %s\n'

core_sources    := $(wildcard pyray/_core/*.pyx pyray/_core/*.pxd pyray/_core/*.h)
example_sources := $(wildcard examples/cython/cython_examples/*.pyx) \
                   examples/cython/setup.py examples/cython/pyproject.toml

# An extension built for AddressSanitizer loads only into a process that began with its library.
run := $(if $(findstring address,$(PYRAY_SANITIZE)),LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
	ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1:$$ASAN_OPTIONS) $(python)

# The requirements that pyproject.toml names, so that they stand in one place.
needs = $$($(python) -c 'import tomllib; \
	p = tomllib.load(open("pyproject.toml", "rb")); print(*p$(1))')
build_needs = $(call needs,["build-system"]["requires"])
extra_needs = $(call needs,["project"]["optional-dependencies"]["$(1)"])

export PATH := $(bin):$(PATH)
# Nor PYTHONDONTWRITEBYTECODE: each of the tests starts processes that would all compile anew.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-storm test-soak test-root test-sanitize test-tsan fuzz check docs \
	format bench bench-peers clean distclean FORCE check-ruff check-format check-cython check-stubs check-types
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

# --- What people ask for ------------------------------------------------------------------------

demo: $(stamps)/core $(stamps)/examples
	$(say) "running every Cython example in pyray tasks"
	@cd examples/cython && $(run) cython_main.py all

test: $(stamps)/core $(stamps)/examples $(stamps)/needs-test
	$(say) "running the tests"
	@timeout --foreground -k 30 $(TEST_LIMIT) env $(run) -m pytest -q $(ARGS)

test-slow: $(stamps)/core $(stamps)/examples $(stamps)/needs-test
	$(say) "running the tests that take long"
	@$(python) -m pytest -q -m slow --timeout 900 $(ARGS)

# Each storm has a limit of its own, and says in one line what it met.
test-storm: $(stamps)/core $(stamps)/needs-test
	$(say) "running the storms"
	@$(run) -m pytest -q -m storm --timeout 1800 -o faulthandler_timeout=0 $(ARGS)

test-soak: $(stamps)/core $(stamps)/needs-test
	$(say) "soaking"
	@$(run) -m pytest -q -m soak --timeout 14400 -o faulthandler_timeout=0 $(ARGS)

# As root with an environment that `make test` has made: sudo make test-root.
test-root: $(stamps)/core $(stamps)/needs-test
	$(say) "running the tests that need root"
	@$(python) -m pytest -q -m root $(ARGS)

# In a copy, since the core is built in place: the tree's own stays the release one. Everything takes
# about four times as long.
test-sanitize:
	$(say) "copying the tree to build/sanitize, for a build under AddressSanitizer and UBSan"
	@mkdir -p build/sanitize
	@tar -c --exclude=./build --exclude='./.venv*' --exclude='*.so' --exclude=./.git . \
		| tar -x -C build/sanitize
	@PYRAY_SLOWNESS=6 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
		$(MAKE) --no-print-directory -C build/sanitize VENV=$(CURDIR)/.venv-sanitize \
		PYRAY_SANITIZE=address,undefined TEST_LIMIT=14400 ARGS="--timeout 600 $(ARGS)" test

test-tsan: $(stamps)/needs-build
	$(say) "running the core's lock-free code under ThreadSanitizer"
	@$(python) tests/stress/races.py $(ARGS)
	$(say) "and a variant whose compare-and-swaps order nothing: it must be reported"
	@$(python) tests/stress/races.py --broken --ops 20000

fuzz: $(stamps)/needs-build $(stamps)/needs-test
	$(say) "fuzzing what reads values"
	@$(python) tests/fuzz/run.py $(ARGS)

check: check-ruff check-format check-cython check-stubs check-types

docs: $(stamps)/core
	$(say) "building docs/api.md from the docstrings"
	@$(python) docs/build_api.py

bench: $(stamps)/core
	$(say) "running the benchmarks"
	@$(python) -m benchmarks --json build/benchmarks/figures.json --svg build/benchmarks $(ARGS)

bench-peers:
	@$(MAKE) --no-print-directory VENV=.venv-peers ARGS="--peers $(ARGS)" \
		$(abspath .venv-peers)/.stamps/needs-peers bench

format: $(stamps)/needs-check
	@ruff format .
	@ruff check --fix .

# --- The checks ---------------------------------------------------------------------------------

check-ruff: $(stamps)/needs-check
	$(say) "ruff check"
	@ruff check .

check-format: $(stamps)/needs-check
	$(say) "ruff format --check"
	@ruff format --check .

check-cython: $(stamps)/needs-check
	$(say) "cython-lint"
	@cython-lint pyray examples && echo "All checks passed!"

check-stubs: $(stamps)/core $(stamps)/needs-check
	$(say) "every core module has a stub, and the stubs tell the truth"
	@missing=0; for source in pyray/_core/*.pyx; do \
		test -f "$${source%.pyx}.pyi" || { echo "$${source%.pyx}.pyi is missing"; missing=1; }; \
	done; exit $$missing
	@$(python) -m mypy.stubtest --concise --ignore-missing-stub --ignore-disjoint-bases \
		--allowlist .ci/stubtest-allow.txt --ignore-unused-allowlist \
		$(patsubst pyray/_core/%.pyi,pyray._core.%,$(wildcard pyray/_core/*.pyi)) \
		&& echo "All stubs hold"

check-types: $(stamps)/needs-check $(stamps)/core
	$(say) "mypy"
	@$(python) -m mypy

# --- How it gets there: a stamp for each step, so that nothing is done twice --------------------

$(stamps)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: say make PYTHON=python3.12, or so"; \
		exit 1; }
	$(say) "making the virtual environment $(VENV) with $(PYTHON)"
	@test -x $(python) || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(stamps) && touch $@

$(stamps)/needs-build: $(stamps)/venv pyproject.toml
	$(say) "installing what the build needs: setuptools, Cython, numpy"
	@$(pip) $(build_needs)
	@touch $@

# Which kind of build is wanted; rewritten, and so newer than the core, only when that changes.
$(stamps)/flavour: FORCE | $(stamps)/venv
	@echo 'debug=$(PYRAY_DEBUG) points=$(PYRAY_KILL_POINTS) sanitize=$(PYRAY_SANITIZE)' | cmp -s - $@ \
		|| echo 'debug=$(PYRAY_DEBUG) points=$(PYRAY_KILL_POINTS) sanitize=$(PYRAY_SANITIZE)' > $@

# An edit of the core alone recompiles what it touches; anything else installs anew.
$(stamps)/core: $(stamps)/needs-build $(stamps)/flavour pyproject.toml setup.py $(core_sources)
	$(if $(filter-out $(core_sources) $(stamps)/flavour,$?), \
		$(say) "building pyray's Cython core and installing pyray (pip install -e .)", \
		$(say) "rebuilding pyray's Cython core")
	$(if $(filter-out $(core_sources) $(stamps)/flavour,$?), \
		@$(pip) --no-build-isolation -e ., \
		@$(python) setup.py -q build_ext --inplace)
	@touch $@

$(stamps)/scipy: | $(stamps)/venv
	$(say) "installing scipy, for the BLAS example"
	@$(pip) --only-binary :all: scipy \
		|| echo "   scipy can't be had here: the BLAS example will be left out"
	@touch $@

$(stamps)/examples: $(stamps)/needs-build $(stamps)/scipy $(example_sources)
	$(say) "building the Cython examples (pip install -e examples/cython)"
	@$(pip) --no-build-isolation -e examples/cython
	@$(python) -c 'import cython_examples.blas_kernels' 2>/dev/null \
		|| echo "   the BLAS example was left out: there is no scipy"
	@touch $@

$(stamps)/needs-%: $(stamps)/venv pyproject.toml
	$(say) "installing the tools for: $*"
	@$(pip) $(call extra_needs,$*)
	@touch $@

clean:
	rm -rf build dist pyray.egg-info examples/cython/build examples/cython/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f pyray/_core/*.so pyray/_core/*.c examples/cython/cython_examples/*.so
	rm -f $(stamps)/core $(stamps)/examples
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-peers .venv-sanitize
