# One command each; `make help` lists them. What is installed lands in .venv, what is built in build/ and dist/.
#
# Stamps in .venv say what has been done, so that a second `make test` begins with the tests. All paths are relative:
# the checkout may live under a path with spaces.

VENV   := .venv
PYTHON := $(VENV)/bin/python
PIP    := $(PYTHON) -m pip --quiet --disable-pip-version-check
LISTEN ?= 127.0.0.1:8080
ADMIN  ?= 127.0.0.1:9901
ARGS   ?=
# Tests wait more than they work: on two cores they take half a processor each. A file's tests stay together; files in
# their order, for those of few tests are the long ones and would come last.
PYTEST := $(PYTHON) -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

EXTENSION_SOURCES := $(wildcard ext/*.pyx ext/*.pxd ext/*.pxi ext/*.h)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run try test test-k8s lint bench chaos build extension annotate manifests clean distclean FORCE

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name does; do printf '  make %-10s %s\n' "$$name" "$$does"; done

run: $(VENV)/.created  ## two real MCP servers and the proxy in front of them; LISTEN=HOST:PORT for another address
	@$(PYTHON) deploy/demo/run.py --listen $(LISTEN) --check
	@$(MAKE) --silent --no-print-directory $(VENV)/.demo $(VENV)/.extension
	@exec $(PYTHON) deploy/demo/run.py --listen $(LISTEN) --admin $(ADMIN)

try: $(VENV)/.demo  ## what a client of `make run` sees: two sessions, three calls each
	@$(PYTHON) deploy/demo/client.py http://$(LISTEN)/mcp

test: $(VENV)/.test $(VENV)/.demo $(VENV)/.extension  ## the whole suite; ARGS="tests/test_house.py -k floors" for a part
	@$(PYTHON) -m tests.kit.provision || echo "make test: not every real server could be provided; tests that need one are skipped by name"
	@$(PYTEST) $(ARGS) || { echo "make test: once more, alone, what failed"; $(PYTHON) -m pytest --last-failed --last-failed-no-failures none $(ARGS); }

# The first time it builds an API server from Debian's sources, which takes root, apt and five minutes.
test-k8s: $(VENV)/.test $(VENV)/.extension  ## the operator against a real API server; ARGS="-k adopt" for a part
	@sh tests/operator/build_cluster.sh
	@FASTPROXY_K8S_BIN="$${FASTPROXY_K8S_BIN:-$$HOME/.cache/fastproxy-k8s/bin}" $(PYTHON) -m pytest tests/operator $(ARGS)

lint: $(VENV)/.test $(VENV)/.extension  ## ruff, mypy --strict, the floors
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.test $(VENV)/.extension  ## side by side with the rivals; ARGS="--quick"
	@$(PYTHON) -m bench $(ARGS)

chaos: $(VENV)/.test $(VENV)/.extension  ## everything dies, hangs and is cut off once, under load: who noticed; ARGS="kill" for some faults
	@$(PYTHON) -m tests.kit.provision mcp2
	@$(PYTHON) -m tests.chaos $(or $(ARGS),--publish)

rollout: $(VENV)/.test $(VENV)/.extension  ## proxies restarted one by one, replicas that come and go: who noticed
	@$(PYTHON) -m tests.rollout restart $(ARGS)
	@$(PYTHON) -m tests.rollout scale

life: $(VENV)/.test $(VENV)/.extension  ## a day of sessions in a quarter of an hour: is all back; ARGS="--minutes 2"
	@$(PYTHON) -m tests.life $(ARGS)

build: $(VENV)/.test  ## sdist and wheel, into dist/ (the wheel is built from the sdist)
	@sh .ci/preflight compiler $(PYTHON)
	@$(PYTHON) -m build --outdir dist .

extension: $(VENV)/.extension  ## the compiled part, in place; FASTPROXY_DEBUG=1 with assertions

manifests: $(VENV)/.extension  ## what deploy/ holds of the program's own printing: definitions, the operator's rights
	@$(PYTHON) -m fastproxy crds > deploy/helm/fastproxy-operator/crds/crds.yaml
	@$(PYTHON) -m fastproxy crds --rights > deploy/kubernetes/role.yaml

annotate: $(VENV)/.tools  ## build/*.html: which lines of ext/ call into Python (yellow)
	@mkdir -p build
	@$(VENV)/bin/cython -3 --annotate ext/core.pyx --output-file build/core.c

clean:  ## what was built
	rm -rf build dist ./*.egg-info fastproxy/_ext/*.so $(VENV)/.extension
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './.cache/*' -prune -exec rm -rf {} +

distclean: clean  ## what was built and what was installed
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.created: .ci/preflight
	@sh .ci/preflight venv $(VENV)
	@touch $@

# The build's own requirements are installed too: the extension is then compiled without an isolated environment.
$(VENV)/.tools: pyproject.toml $(VENV)/.created
	@sh .ci/preflight compiler $(PYTHON)
	@$(PIP) install $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	@touch $@

$(VENV)/.test $(VENV)/.demo: $(VENV)/.%: pyproject.toml $(VENV)/.tools
	@echo "make: installing fastproxy[$*] into $(VENV)"
	@FASTPROXY_WITHOUT_EXTENSION=1 $(PIP) install --no-build-isolation --editable '.[$*]'
	@touch $@

$(VENV)/.extension: $(EXTENSION_SOURCES) setup.py build/.flags | $(VENV)/.tools
	@sh .ci/preflight compiler $(PYTHON)
	@echo "make: compiling ext/"
	@$(PYTHON) setup.py --quiet build_ext --inplace $(shell cmp -s build/.flags build/.flags.built || echo --force)
	@cp build/.flags build/.flags.built
	@touch $@

# Rewritten only when the flags differ from those of the last build: then, and only then, all is compiled again.
build/.flags: FORCE
	@mkdir -p build
	@echo "debug=$(FASTPROXY_DEBUG) sanitize=$(FASTPROXY_SANITIZE)" | cmp -s - $@ || echo "debug=$(FASTPROXY_DEBUG) sanitize=$(FASTPROXY_SANITIZE)" > $@
