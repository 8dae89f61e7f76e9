# make help lists the targets.

PYTHON := .venv/bin/python
JOBS ?= $(shell nproc)
PYTEST_ARGS ?=
DEMO_ARGS ?=
SECONDS ?= 60
BENCH_ARGS ?=
# Of `crash-proof`: every call, or each EVERY-th; kills at random with all workers, of each operation.
EVERY ?= 1
RANDOM ?= 100
# The corpus that .ci/run makes; OUT holds disk images and console logs.
CORPUS ?= $(lastword $(wildcard $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/jigdo-composer/corpus-????????????????))
BOOT_OUT ?= .cache/boot-proof
BYTES_ARGS = $(if $(CASE),--case $(CASE)) $(if $(QUICK),--quick) $(if $(DOCS),--docs) \
    $(if $(TREEFILE),--treefile "$(TREEFILE)") $(if $(PACKAGES),--packages "$(PACKAGES)") \
    $(if $(WORK),--work "$(WORK)") $(if $(BACKGROUND),--background) $(BENCH_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-bench demo check format test fuzz attack-proof crash-proof boot-proof bench \
    bench-compose bench-bytes bench-line bench-crowd bench-farm bench-fleet bench-publish bench-site \
    bench-verify bench-history lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install what running needs: system packages, .venv (seconds when nothing is to do)
	@packaging/setup.sh run

setup-test: ## the same, and what the tests need
	@packaging/setup.sh test

setup-bench: ## the same, and the other ways that bench-bytes compares with
	@packaging/setup.sh bench

demo: setup ## the main job, end to end, on fixture packages (a few minutes; root)
	$(PYTHON) fixtures/demo.py $(DEMO_ARGS)

check: setup ## lint, format and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy --strict composer tests

format: setup ## put the code into its format
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

test: setup-test check ## check, then the tests (PYTEST_ARGS="-k pull", JOBS=1)
	$(PYTHON) -m pytest -n $(JOBS) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

fuzz: setup-test ## fuzz the readers of untrusted bytes ([FUZZ="map table"] [SECONDS=60] for each)
	@$(PYTHON) -c "import atheris" 2>/dev/null || \
	    $(PYTHON) -m pip --quiet install --only-binary :all: "atheris>=2.3"
	$(PYTHON) -m tests.fuzz $(FUZZ) --seconds $(SECONDS)

attack-proof: setup-test ## every attack of the catalogue on a client, printed as a table
	$(PYTHON) -m pytest -q -n $(JOBS) -m attack --attack-table tests/trust tests/client $(PYTEST_ARGS)

boot-proof: setup-test ## install from a mirror, boot, update, roll back, in qemu ([CORPUS=DIR]; ~15 min; root)
	@test -d "$(CORPUS)/v2" || { echo "no corpus: .ci/run makes one, or CORPUS=DIR" >&2; exit 2; }
	$(PYTHON) -m tests.boot.proof --corpus "$(CORPUS)" --out $(BOOT_OUT)

crash-proof: setup-test ## kills, ENOSPC, EIO, power cuts at every call ([EVERY=N] [RANDOM=100]; long; root)
	JIGDO_CRASH_ALL=1 JIGDO_CRASH_EVERY=$(EVERY) JIGDO_CRASH_RANDOM=$(RANDOM) \
	    $(PYTHON) -m pytest -q -n $(JOBS) tests/crash $(PYTEST_ARGS)

bench: setup-test ## the benchmarks, on the whole corpus (long)
	$(PYTHON) -m tests.bench.run $(BENCH_ARGS)

bench-compose: setup-test ## the compose against dnf --installroot, on the whole corpus (long)
	$(PYTHON) -m tests.bench.compose $(BENCH_ARGS)

bench-bytes: setup-test ## bytes moved: V1=DIR V2=DIR OUT=FILE.json [QUICK=1 ...] (docs/benchmarks.md)
	@test -n "$(V1)" -a -n "$(V2)" -a -n "$(OUT)" || \
	    { echo "usage: make bench-bytes V1=DIR V2=DIR OUT=FILE.json (see docs/benchmarks.md)" >&2; exit 2; }
	-@packaging/setup.sh bench # what is not there is left out, by name
	$(PYTHON) -m tests.bench.bytes "$(V1)" "$(V2)" --out "$(OUT)" $(BYTES_ARGS)

bench-line: setup-test ## a pull at 100 ms and 20 Mbit/s against curl for the same requests (root)
	$(PYTHON) -m tests.bench.slow_line $(BENCH_ARGS)

bench-verify: setup-test ## mirror verify: MIRROR=DIR with published sets; full, 100,000 and 1,000,000 files
	$(PYTHON) -m tests.bench.verify "$(MIRROR)" $(BENCH_ARGS)

bench-fleet: setup-test ## mirror simulate against 200 real clients, by a server's log (root)
	$(PYTHON) -m tests.bench.fleet $(BENCH_ARGS)

bench-history: setup-test ## 100 published versions out of two commits (docs/benchmarks.md; half an hour, 1 GB)
	$(PYTHON) -m tests.bench.versions $(BENCH_ARGS)

bench-site: setup-test ## mirror site: MIRROR=DIR with many versions [BENCH_ARGS="--packages DIR ..."]
	$(PYTHON) -m tests.bench.site "$(MIRROR)" $(BENCH_ARGS)

bench-farm: setup-test ## deltas on Dask workers, 1 and 2, one core each (BENCH_ARGS="REPO PACKAGES --ref REF --from REV")
	$(PYTHON) -m tests.bench.farm $(BENCH_ARGS)

bench-publish: setup-test ## readers at 100 Hz during 50 publications with kills [BENCH_ARGS=...] (root)
	$(PYTHON) -m tests.bench.publishing $(BENCH_ARGS)

bench-crowd: setup-test ## 200 clients at once against one nginx, its CPU against plain files (root)
	$(PYTHON) -m tests.bench.crowd $(BENCH_ARGS)

lock: setup ## pin again what pyproject.toml asks for (LOCK_ARGS=--upgrade: newest)
	/usr/bin/python3 -m venv .cache/lock
	.cache/lock/bin/python -m pip --quiet install pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" .cache/lock/bin/pip-compile --quiet $(LOCK_ARGS) \
	    --extra dev --extra serve --extra cluster --extra s3 --extra hsm --build-deps-for editable \
	    --allow-unsafe --no-strip-extras \
	    --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --no-config --output-file requirements.lock pyproject.toml

clean: ## remove .venv, caches and what the demo left
	rm -rf .venv .cache build demo *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find composer tests fixtures -name __pycache__ -prune -exec rm -rf {} +
