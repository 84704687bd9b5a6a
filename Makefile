# Needs make, a C library and Python 3.11 or newer (or uv). Everything is made in .venv.

.DEFAULT_GOAL := help
.PHONY: help setup demo test check chaos replay bench upgrade soak aimock celerynode promtool redistls audit lock clean

VENV := .venv
BIN := $(VENV)/bin
EXTRAS := node,beat,gateway,jsonschema,openai,anthropic,embedded,otel,deploy,dev
AIMOCK := @copilotkit/aimock@1.43.0
CELERYNODE := celery-node@0.5.9

# 3.12 and 3.11 come first: for them there is a wheel with a Redis server (see `embedded`).
PYTHONS := python3.12 python3.11 python3 python3.13 python3.14 python
UV := $(shell command -v uv)
# uv trusts what this machine trusts, as pip does.
export UV_SYSTEM_CERTS ?= true
# The tests start hundreds of processes: each would compile Colony anew.
unexport PYTHONDONTWRITEBYTECODE
# Most tests wait for time to pass, not for a core; in their order, the long files come first. A server that is
# named is one for all of them.
PARALLEL := $(if $(COLONY_TEST_REDIS_URL),,-n 4 --dist loadfile --no-loadscope-reorder)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make .venv with the locked dependencies and Colony itself, editable

demo: setup ## run a small fleet on an embedded Redis, no key needed
	$(BIN)/colony demo

test: setup ## run the tests
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

chaos: setup ## hurt a fleet at random for minutes, then count (ARGS="--seed 7 --seconds 300 --runs 3")
	$(BIN)/python -m tests.chaos $(ARGS)
	$(if $(ARGS),,CHAOS_CONTROLS=1 $(BIN)/python -m pytest tests/chaos/test_mutants.py)

# A core each: cut after each checkpoint, a worker costs several times the work.
replay: PARALLEL := $(subst -n 4,-n 2,$(PARALLEL))
replay: setup ## run the tests of the fleet with every slice cut after each checkpoint
	TEST_REPLAY=1 $(BIN)/python -m pytest $(PARALLEL) tests/fleet $(ARGS)

check: setup ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict colony workers tests

bench: setup ## measure; compare with the peers that can be installed
	-$(INSTALL) --constraint requirements.lock --editable '.[bench]'
	$(BIN)/python -m tests.bench $(ARGS)

upgrade: setup ## replace every process of a fleet under load, and draw what was seen (ARGS="--seconds 30")
	$(INSTALL) --constraint requirements.lock --editable '.[bench]'
	$(BIN)/python -m tests.upgrade $(ARGS)

soak: setup ## a fleet at 70 % load for 30 minutes: nothing may grow
	$(BIN)/python -m tests.bench.soak $(ARGS)

aimock: $(VENV)/aimock/.ready ## install the model server that the aimock tests call (needs npm and Node 20)

celerynode: $(VENV)/celerynode/.ready ## install the Celery client for Node.js that its tests use (needs npm)

promtool: $(BIN)/promtool ## install Prometheus' checker of alerts (Debian and Ubuntu)

redistls: ## install a Redis that was built with TLS, for the tests of it (Debian and Ubuntu, as root)
	command -v redis-check-rdb >/dev/null || { apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends redis-tools openssl; }

audit: $(BIN)/python ## ask PyPI which locked dependencies have known vulnerabilities (needs the network)
	@if ! $(BIN)/python -c '$(REACHES_PYPI)' 2>/dev/null; then \
		echo "skipped: pypi.org cannot be reached from here, and knows what is vulnerable"; exit 0; \
	fi; \
	test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; } && \
	$(VENV)/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

REACHES_PYPI := import urllib.request; urllib.request.urlopen("https://pypi.org/pypi/pip/json", timeout=5)

lock: $(BIN)/python ## resolve requirements.lock anew, for Python 3.11 to 3.13
	test -n "$(UV)" || $(INSTALL) uv
	$(or $(UV),$(BIN)/uv) pip compile --quiet --upgrade --universal --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		$(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) \
		pyproject.toml --output-file requirements.lock

clean: ## remove what make and the tools made
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

comma := ,

# A Python counts only if it runs: a version manager's shim may be on PATH and fail. Without uv it
# must also be able to make a virtual environment with pip in it.
IS_USABLE := import sys$(if $(UV),,, ensurepip, venv); sys.version_info >= (3, 11) and print(sys.executable)

$(BIN)/python:
	@for name in $(PYTHONS); do \
		python=$$($$name -c '$(IS_USABLE)' 2>/dev/null); \
		if test -n "$$python"; then break; fi; \
	done; \
	if test -z "$$python"; then \
		$(if $(UV),python=3.12,echo "$(NO_PYTHON)" >&2; exit 1); \
	fi; \
	echo "Making $(VENV) with $$python"; \
	rm -rf $(VENV); \
	$(if $(UV),$(UV) venv --quiet --seed --python "$$python" $(VENV),"$$python" -m venv $(VENV))

NO_PYTHON := Colony needs Python 3.11 or newer with its venv module, and none of $(PYTHONS) is one: \
install python3 and python3-venv with your package manager, or install uv.

$(VENV)/.ready: pyproject.toml requirements.lock | $(BIN)/python
	$(INSTALL) --requirement requirements.lock --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/aimock/.ready: Makefile | setup
	npm install --prefix $(VENV)/aimock --no-audit --no-fund --loglevel=error $(AIMOCK)
	@touch $@

$(VENV)/celerynode/.ready: Makefile | setup
	npm install --prefix $(VENV)/celerynode --no-audit --no-fund --loglevel=error $(CELERYNODE)
	@touch $@

# The package alone: installed, it would start a server.
$(BIN)/promtool: | setup
	cd $(VENV) && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; }
	dpkg-deb --fsys-tarfile $(VENV)/prometheus_*.deb | tar -x -C $(BIN) --strip-components=3 ./usr/bin/promtool
	rm $(VENV)/prometheus_*.deb
