# make demo    try it: a gateway with three back ends on http://127.0.0.1:8000 (PORT=...)
# make test    lint, then the tests with the oldest supported libraries, then with the current ones
# make lint    ruff and mypy only
# make bench   what a request costs here and with others, as a table (takes half an hour)
# make autobahn   Autobahn's WebSocket test suite against the gateway (needs a Python 2.7)
# make chaos   faults on purpose, under load, against the gateway (takes five minutes)
# make coverage   the tests with the current libraries, and which lines they leave out
# make floor   the tests with the oldest supported libraries only
# make real-clients  get what the tests with Streamlit, Gradio and socket.io need, Node and Chromium
# make kubectl   get what drives the fake Kubernetes API server in the tests, and renders manifests
# make clean   remove everything that was made here
#
# PYTHON picks the interpreter (3.11 or newer). Environments are made from pyproject.toml and the
# versions in constraints.txt; a stamp file in each keeps them until one of the two changes.

PYTHON ?= python3
# The oldest libraries have no wheels for Python 3.14 and later.
FLOOR_PYTHON ?= $(PYTHON)
PORT ?= 8000
# Such as --case 100b, --peer traefik, --rounds 3; or --write docs/performance.md
BENCH_OPTIONS ?=
# Autobahn's WebSocket test suite runs on no other.
PYTHON2 ?= python2.7
# Such as --case killed, --minutes 10, --seed 2, --set retry=null; or --write docs/resilience.md
CHAOS_OPTIONS ?=
# Such as --gateway 'sticky-asgi run'
AUTOBAHN_OPTIONS ?=

PIP_OPTIONS := --quiet --disable-pip-version-check
# The tests mostly wait for sockets, so more of them run at a time than there are processors.
PYTEST_OPTIONS ?= --numprocesses 3 --dist loadfile
KUBECTL_IGNORE := --ignore=tests/test_kubernetes_manifests.py --ignore-glob='*_kubectl.py'
# What asks no library for anything, and what takes its time to say the same once more.
FLOOR_ALIKE := --ignore=tests/balancers --ignore=tests/health --ignore=tests/testing \
	--ignore=tests/test_chaos.py --ignore=tests/test_websocket_chaos.py \
	--ignore=tests/test_drain.py --ignore=tests/test_garbage.py --ignore=tests/test_servers.py \
	--ignore=tests/upstream/test_connections.py \
	--ignore=tests/discovery/test_kubernetes_gateway.py \
	--ignore=tests/discovery/test_kubernetes_recovery.py
# Tests of the documentation and the examples need FastAPI, which needs a newer Starlette. What
# `uvicorn_websocket` is made of came with uvicorn 0.35. kmock is of the extra `dev`.
FLOOR_IGNORE := --ignore-glob='*test_docs*' --ignore-glob='*test_examples*' \
	--ignore-glob='*test_readme*' --ignore=tests/docs --ignore=tests/examples \
	--ignore=tests/real_clients --ignore=tests/test_uvicorn_websocket.py \
	--ignore=tests/discovery/test_article_kmock.py $(KUBECTL_IGNORE) $(FLOOR_ALIKE)
# The third of the HTTP implementations is the second one's, but for one write.
FLOOR_SELECTION := -k 'not (joined- or -joined or [joined])'

.PHONY: demo test lint floor real-clients kubectl bench bench-tools clean
.NOTPARALLEL:

demo: .venv/.demo
	.venv/bin/sticky-asgi demo --port $(PORT)

test: lint floor
	@if $(MAKE) --no-print-directory real-clients; then \
		ignored=; \
	elif [ "$$CI" = true ]; then \
		exit 1; \
	else \
		echo 'Skipped: the tests of real clients (tests/real_clients)'; \
		ignored=--ignore=tests/real_clients; \
	fi; \
	if $(MAKE) --no-print-directory kubectl; then \
		:; \
	elif [ "$$CI" = true ]; then \
		exit 1; \
	else \
		echo 'Skipped: the tests with kubectl'; \
		ignored="$$ignored $(KUBECTL_IGNORE)"; \
	fi; \
	.venv/bin/python -m pytest $(PYTEST_OPTIONS) $$ignored

lint: .venv/.dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

floor:
	@if $(FLOOR_PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 14))'; then \
		$(MAKE) --no-print-directory .venv-floor/.floor && \
		echo 'Tests with the oldest supported libraries' && \
		.venv-floor/bin/python -m pytest $(PYTEST_OPTIONS) $(FLOOR_IGNORE) \
			$(FLOOR_SELECTION); \
	elif [ "$$CI" = true ]; then \
		echo 'make: set FLOOR_PYTHON to a Python 3.11 to 3.13 for the oldest libraries' >&2; \
		exit 1; \
	else \
		echo 'Skipped: the oldest libraries need Python 3.11 to 3.13 (FLOOR_PYTHON=python3.13)'; \
	fi

.PHONY: coverage
coverage: .venv/.dev kubectl
	.venv/bin/python -m pytest $(PYTEST_OPTIONS) --ignore=tests/real_clients --cov \
		--cov-report=term:skip-covered

# What pip does not bring comes first: without it, there is no use for the rest.
real-clients:
	@missing=; \
	command -v npm >/dev/null || missing='nodejs npm'; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	command -v google-chrome >/dev/null || missing="$$missing chromium"; \
	if [ -z "$$missing" ]; then \
		exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get install --quiet --yes --no-install-recommends $$missing; \
	else \
		echo "make: Node 20 with npm, and Chromium, are needed; missing: $$missing" \
			'(on Debian and Ubuntu: apt install)' >&2; \
		exit 1; \
	fi
	@$(MAKE) --no-print-directory .venv/.real-clients tests/real_clients/node_modules/.installed

kubectl:
	@if command -v kubectl >/dev/null; then \
		exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get install --quiet --yes --no-install-recommends kubernetes-client; \
	else \
		echo 'make: kubectl 1.20 or newer is needed' \
			'(on Debian and Ubuntu: apt install kubernetes-client)' >&2; \
		exit 1; \
	fi

bench: .venv/.bench bench-tools
	.venv/bin/python -m benchmarks $(BENCH_OPTIONS)

# What pip does not bring. Servers are often where only root looks.
bench-tools:
	@export PATH="$$PATH:/usr/sbin"; \
	command -v wrk >/dev/null && command -v nginx >/dev/null && command -v haproxy >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get install --quiet --yes --no-install-recommends wrk nginx-light haproxy; \
	else \
		echo 'make: wrk, nginx and haproxy are needed' \
			'(on Debian and Ubuntu: apt install wrk nginx-light haproxy)' >&2; \
		exit 1; \
	fi

.PHONY: chaos
chaos: .venv/.dev
	.venv/bin/python -m tests.chaos $(CHAOS_OPTIONS)

.PHONY: autobahn
autobahn: .venv/.dev .venv-autobahn/.made
	.venv/bin/python -m tests.autobahn --python $(PYTHON2) --packages .venv-autobahn \
		--reports .venv-autobahn/reports $(AUTOBAHN_OPTIONS)

clean:
	rm -rf .venv .venv-floor .venv-autobahn tests/real_clients/node_modules
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# $(call make_venv,interpreter,folder)
define make_venv
	@command -v $(1) >/dev/null || { \
		echo 'make: $(1) not found; say which Python: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: Python 3.11 or newer is needed, $(1) is $$($(1) -V 2>&1);" \
			'say which: make PYTHON=python3.13' >&2; exit 1; }
	@$(1) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo 'make: $(1) lacks venv or ensurepip (on Debian and Ubuntu: apt install python3-venv)' \
			>&2; exit 1; }
	$(1) -m venv $(2)
endef

.venv/.made:
	$(call make_venv,$(PYTHON),.venv)
	@touch $@

.venv-floor/.made:
	$(call make_venv,$(FLOOR_PYTHON),.venv-floor)
	@touch $@

# Relative, because pip splits PIP_CONSTRAINT at spaces; it holds for build dependencies too.
.venv/.demo: pyproject.toml constraints.txt | .venv/.made
	PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install $(PIP_OPTIONS) -e '.[cli]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/.made
	PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install $(PIP_OPTIONS) -e '.[dev]'
	@touch $@

.venv/.real-clients: pyproject.toml constraints.txt | .venv/.made
	PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install $(PIP_OPTIONS) -e '.[real-clients]'
	@touch $@

# Chromium is the system's: no script of a package has anything to fetch.
tests/real_clients/node_modules/.installed: tests/real_clients/package-lock.json
	npm ci --prefix tests/real_clients --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

.venv/.bench: pyproject.toml constraints.txt | .venv/.made
	PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install $(PIP_OPTIONS) -e '.[bench]'
	@touch $@

.venv-floor/.floor: pyproject.toml constraints-floor.txt | .venv-floor/.made
	PIP_CONSTRAINT=constraints-floor.txt .venv-floor/bin/python -m pip install $(PIP_OPTIONS) -e '.[test]'
	@touch $@

# Not an environment, because nothing that makes one still works with Python 2.7, but what a user
# installs without being root, in a folder of its own. A part of it has to be compiled.
.venv-autobahn/.made: tests/autobahn/requirements.txt
	@$(PYTHON2) -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null || { \
		echo 'make: $(PYTHON2) is no Python 2.7, and Autobahn runs on no other;' \
			'say where there is one: make autobahn PYTHON2=/path/to/python2.7' >&2; exit 1; }
	@$(PYTHON2) -m pip --version >/dev/null 2>&1 || { \
		echo 'make: $(PYTHON2) lacks pip; try $(PYTHON2) -m ensurepip --user' >&2; exit 1; }
	rm -rf $(@D)
	PYTHONUSERBASE='$(CURDIR)/$(@D)' $(PYTHON2) -m pip install $(PIP_OPTIONS) --user \
		--ignore-installed --no-warn-script-location \
		--requirement $<
	@touch $@
