# What a newcomer types. Needs Python >= 3.11 and make, nothing else.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
IMAGE ?= docker:heed:cpu
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test check fix bench install models clients tools triton fleet ray dist sbom gpu-bundle clean

serve: models  ## serve the demo models on HOST:PORT
	$(BIN)/heed serve --host $(HOST) --port $(PORT)

test: $(VENV)/dev models clients tools triton fleet ray  ## run the whole test suite
	$(BIN)/python -m pytest

check: $(VENV)/dev  ## formatting, lint, types, import rules, the Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

fix: $(VENV)/dev  ## mend what can be mended by machine
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev models  ## run the benchmarks; prints ratios
	$(BIN)/python -m benchmarks

install: $(VENV)/dev models  ## everything, tools included

models: $(VENV)/heed  ## put the demo models into ./repository
	$(BIN)/python -m models.training.demo repository

clients: .cache/clients/ready .cache/mteb/ready .cache/kserve/ready  ## other people's clients, for the tests of what they speak

# They pin packages that the server must not have: an environment of their own.
.cache/clients/ready: tests/e2e/clients.txt
	$(PYTHON) -m venv .cache/clients
	@.cache/clients/bin/pip install --quiet --disable-pip-version-check --requirement $< && touch $@ || \
		echo "other people's clients could not be installed: the tests that use them will be skipped"

# Beside the development environment, whose torch it shares.
.cache/mteb/ready: tests/e2e/mteb.txt .cache/clients/ready
	@rm -rf .cache/mteb
	@.cache/clients/bin/pip install --quiet --disable-pip-version-check --no-deps --target .cache/mteb \
		--requirement $< && touch $@ || echo "mteb could not be installed: its test will be skipped"

# KServe's own fetching of models, beside the clients, which have what it needs for plain sources.
.cache/kserve/ready: tests/deploy/kserve.txt .cache/clients/ready
	@rm -rf .cache/kserve
	@.cache/clients/bin/pip install --quiet --disable-pip-version-check --no-deps --target .cache/kserve \
		--requirement $< && touch $@ || echo "kserve-storage could not be installed: its tests will be skipped"

tools: .cache/tools/ready  ## other people's tools that look into models, for the tests that compare

# Beside the development environment, whose torch they share, and mteb, whose pandas and datasets they share.
.cache/tools/ready: tests/peers/tools.txt .cache/mteb/ready
	@rm -rf .cache/tools
	@.cache/clients/bin/pip install --quiet --disable-pip-version-check --no-deps --target .cache/tools \
		--requirement $< && touch $@ || echo "other people's tools could not be installed: their tests will be skipped"

triton: .cache/triton/ready  ## the compiler of kernels for GPUs, for their tests without one

.cache/triton/ready: tests/triton/triton.txt .cache/clients/ready
	@rm -rf .cache/triton
	@.cache/clients/bin/pip install --quiet --disable-pip-version-check --no-deps --target .cache/triton \
		--requirement $< && touch $@ || echo "Triton could not be installed: the tests of its kernels will be skipped"

fleet: .cache/deploy/ready  ## programs that check and run what deploy/ has, for its tests

.cache/deploy/ready: tests/deploy/tools.txt
	$(PYTHON) -m venv .cache/deploy
	@.cache/deploy/bin/pip install --quiet --disable-pip-version-check --requirement $< && touch $@ || \
		echo "the tools that check deploy/ could not be installed: the tests that use them will be skipped"

dist: .cache/dist/ready  ## sdists and wheels of a release in dist/, checked
	PYTHON=.cache/dist/bin/python deploy/build-dist.sh dist

sbom: .cache/dist/ready  ## what IMAGE holds, docker:heed:cpu unless given, as dist/sbom.cdx.json
	SYFT=.cache/dist/bin/syft deploy/sbom.sh $(IMAGE) dist/sbom.cdx.json

.cache/dist/ready: deploy/dist-tools.txt
	$(PYTHON) -m venv .cache/dist
	.cache/dist/bin/pip install --quiet --disable-pip-version-check --requirement $< && touch $@

ray: .cache/ray/ready  ## Ray Serve, for the tests of deploy/ray

# Beside the development environment, whose packages it shares.
.cache/ray/ready: tests/deploy/ray.txt .cache/clients/ready
	@rm -rf .cache/ray
	@.cache/clients/bin/pip install --quiet --disable-pip-version-check --no-deps --target .cache/ray \
		--requirement $< && touch $@ || echo "Ray could not be installed: its tests will be skipped"

# The stamps are newer than the files that say what to install.
$(VENV)/heed: pyproject.toml constraints.txt $(wildcard service/*/compiled/*.[ch] models/compiled/*/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Heed needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	rm -f service/wire/compiled/_native*.so models/compiled/_native*.so
	$(BIN)/pip uninstall --quiet --quiet --yes heed  # what heed-server was called
	$(PIP) --editable . --editable client
	@touch $@

$(VENV)/dev: $(VENV)/heed
	$(PIP) --editable '.[dev]'
	@touch $@

gpu-bundle: $(VENV)/heed models  ## a folder for a machine with a GPU and no network: build/gpu-bundle
	$(BIN)/python deploy/gpu/bundle.py build/gpu-bundle

clean:
	rm -rf $(VENV) .cache build dist *.egg-info service/wire/compiled/_native*.so models/compiled/_native*.so
