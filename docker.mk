# make image        the image crossmoda-grl, for NVIDIA GPUs with TORCH=cuda
# make wheelhouse   downloads the wheels, so that make image works offline
# make sbom         lists what the image holds, as CycloneDX, in sbom.json
# Included by Makefile, which sets PYTHON and VENV.

IMAGE ?= crossmoda-grl
# cpu, or cuda for NVIDIA GPUs
TORCH ?= cpu
# Further extras for the image, such as EXTRAS="tuning postgresql dashboard"; `make wheelhouse` needs the same value
EXTRAS ?=
# Another base image, such as one pinned by its digest: BASE=python:3.11-slim-bookworm@sha256:...
BASE ?=
SBOM ?= sbom.json
# The image whose g++ compiles the networks. Offline, where it is not on this machine, they stay uncompiled.
COMPILER ?= python:3.11-bookworm
WHEEL_PYTHON = $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,$(PYTHON))
DOWNLOAD = wheelhouse/.pip/bin/pip --disable-pip-version-check download --quiet --retries 1 --dest wheelhouse \
	--only-binary :all: --require-hashes -c requirements.hashed
TORCH_INDEX_cpu = --index-url https://download.pytorch.org/whl/cpu

.PHONY: wheelhouse image sbom

# NiiVue comes along, which the page of `view` needs.
wheelhouse: wheelhouse/$(TORCH).txt
	@rm -f wheelhouse/niivue-*; bundle=$$($(WHEEL_PYTHON) pipeline/inference/viewer/niivue.py) && cp "$$bundle" wheelhouse/ \
		|| echo "the image will lack NiiVue, which only crossmoda-grl view needs"

# Without wheels, an existing list is out of date.
ifeq ($(wildcard wheelhouse/*.whl),)
.PHONY: wheelhouse/$(TORCH).txt
endif

# All wheels that the image needs, for its Python and this machine's architecture, each with a hash of requirements.hashed.
# pip comes first, because it takes hashes from constraints only since its version 26; then torch, alone, because only
# torch comes from the index of CPU builds.
wheelhouse/$(TORCH).txt: requirements.hashed pyproject.toml image/requirements.py
	@$(WHEEL_PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), "wheelhouse: needs Python 3.11, as the image has: make wheelhouse PYTHON=python3.11 VENV=none"'
	mkdir -p wheelhouse
	rm -rf wheelhouse/*.whl wheelhouse/*.txt wheelhouse/.pip
	$(WHEEL_PYTHON) -m venv wheelhouse/.pip
	sed -n '/^pip==/,/[^\\]$$/p' requirements.hashed >wheelhouse/pip.new
	wheelhouse/.pip/bin/pip --disable-pip-version-check install --quiet --retries 1 --require-hashes -r wheelhouse/pip.new
	$(DOWNLOAD) --no-deps -r wheelhouse/pip.new
	$(DOWNLOAD) --no-deps $(TORCH_INDEX_$(TORCH)) torch
	ls wheelhouse/torch-*.whl | sed 's/.*torch-\([^-]*\)-.*/torch==\1/' >wheelhouse/torch.new
	$(WHEEL_PYTHON) image/requirements.py $(EXTRAS) >wheelhouse/requirements.new
	$(DOWNLOAD) --find-links wheelhouse -c wheelhouse/torch.new -r wheelhouse/requirements.new
	rm -rf wheelhouse/.pip wheelhouse/pip.new wheelhouse/torch.new
	mv wheelhouse/requirements.new $@
	@du -sh wheelhouse

# Builds offline if wheelhouse/ holds wheels, and online otherwise.
image:
	compiler="$(COMPILER)"; \
	if ls wheelhouse/*.whl >/dev/null 2>&1 && ! docker image inspect "$$compiler" >/dev/null 2>&1; then \
		echo "$$compiler is not on this machine: the networks stay uncompiled"; compiler=; \
	fi; \
	docker build --tag $(IMAGE) --build-arg TORCH=$(TORCH) --build-arg EXTRAS="$(EXTRAS)" \
		$(if $(NPM_CONFIG_REGISTRY),--build-arg NPM_CONFIG_REGISTRY) \
		$(if $(BASE),--build-arg BASE=$(BASE)) $${compiler:+--build-arg COMPILER="$$compiler"} \
		$(if $(wildcard wheelhouse/*.whl),--network none) .
	@docker image inspect --format '{{index .RepoTags 0}}: {{.Size}} bytes' $(IMAGE)

# From inside the image, which is asked what it has: not from the lists that it was built from.
sbom:
	docker run --rm --interactive --network none --read-only --cap-drop ALL --entrypoint python3 $(IMAGE) \
		- "$$(docker image inspect --format '{{.Id}}' $(IMAGE))" <image/sbom.py >$(SBOM).new
	mv $(SBOM).new $(SBOM)
