# make demo   phantom scans -> label maps of every shipped set, a picture, scores, ranks and a report, in demo/
# make test   linters, type checker, the site and all tests
# make docs   README.md, docs/ and the reference of the Python interface as a site, in site/
# make fuzz MINUTES=30   damaged and misleading files, new ones each time
# make bench             speed and memory beside other libraries
# They install what they need into .venv first. They need Python 3.11, make and a package index.

PYTHON ?= python3
VENV ?= .venv
# PyTorch's index of CPU builds, in addition to PyPI. Empty (TORCH_INDEX=), PyPI's build is used: on Linux, with CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO ?= demo
# The shipped sets of weights that the demo shows side by side: folders of weights/.
SETS ?= paper best
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
GRL := $(BIN)/crossmoda-grl

.PHONY: demo test lint docs fuzz bench bench-quick bench-more soak experiment ladder lock clean
.DEFAULT_GOAL := demo

include docker.mk

# torch comes first, pinned: a version range would install the newest build, on Linux with gigabytes of CUDA.
$(VENV)/torch.stamp: requirements.lock
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --retries 1 -c requirements.lock pip
	$(PIP) install --quiet --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c requirements.lock torch
	touch $@

$(VENV)/run.stamp: $(VENV)/torch.stamp pyproject.toml setup.py
	$(PIP) install --quiet -c requirements.lock -e '.[segmentation,runner]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(PIP) install --quiet -c requirements.lock -e '.[dev]'
	touch $@

demo: $(VENV)/run.stamp
	rm -rf $(DEMO)
	$(GRL) phantom --out $(DEMO)/data --source 0 --target 0 --validation 3 --preset small --seed 7
	set -e; for set in $(SETS); do \
		$(GRL) predict --weights $$set --input $(DEMO)/data/target_validation --output $(DEMO)/labels/$$set; \
	done
	$(GRL) picture --scans $(DEMO)/data/target_validation $(foreach set,$(SETS),--labels $(DEMO)/labels/$(set)) \
		--reference $(DEMO)/data/target_validation_reference --out $(DEMO)/picture.png \
		--note "Phantoms, not patients. The shipped networks: $(foreach set,$(SETS),weights/$(set)/*.json)"
	$(GRL) evaluate score --reference $(DEMO)/data/target_validation_reference --prediction $(DEMO)/labels \
		--json $(DEMO)/scores.json --csv $(DEMO)/scores.csv
	$(GRL) evaluate rank $(DEMO)/scores.csv
	$(GRL) evaluate report $(DEMO)/scores.json --out $(DEMO)/report.html \
		--reference $(DEMO)/data/target_validation_reference --prediction $(DEMO)/labels \
		--scans $(DEMO)/data/target_validation --phantom
	@echo "Look at $(DEMO)/picture.png and $(DEMO)/report.html: phantoms, not patients."

lint: $(VENV)/dev.stamp docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Stops at a broken link, at a page that nav lacks, and at a page that would load something from elsewhere. Not --quiet:
# MkDocs would not count its warnings.
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

# A process for each core, up to four. The tests of a module stay together: they share what is slow to make. The order is
# that of tests/conftest.py.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 20

# Each round draws twenty times as many examples as `make test`, and new ones.
MINUTES ?= 30
fuzz: $(VENV)/dev.stamp
	set -e; end=$$(( $$(date +%s) + $(MINUTES) * 60 )); while [ $$(date +%s) -lt $$end ]; do \
		FUZZ_TIMES=20 $(BIN)/python -m pytest -q -x --timeout 3600 tests/fuzz; \
	done

# The plots and the main figures of docs/performance.md, on a machine with nothing else to do.
bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/window.py
	$(BIN)/python benchmarks/resampling.py
	$(BIN)/python benchmarks/whole_case.py --images docs/images

# The same on small scans and windows, to see that everything runs.
bench-quick: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/window.py --window 32 --pairs 1 --passes 2 --work .bench/quick --json .bench/quick/figures.json
	$(BIN)/python benchmarks/resampling.py --quick --pairs 3 --json .bench/quick/figures.json
	$(BIN)/python benchmarks/whole_case.py --quick --work .bench/quick --json .bench/quick/figures.json --images .bench/quick

# A case at 50 % overlap and a cohort; reading, metrics, training steps and randomisation beside other libraries and
# plain code; the phantoms' baseline.
bench-more: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/metrics.py --slices 24
	$(BIN)/python benchmarks/whole_case.py --part overlap-0.5 --part cohort --pairs 3
	$(BIN)/python benchmarks/training_step.py --pairs 3
	$(BIN)/python benchmarks/randomisation.py --rounds 2
	$(BIN)/python benchmarks/phantom_baseline.py --tuning 5 --cases 8 --seed 9

# 500 small cases in one predict with flat memory, and 50 SIGKILLs and resumes: about half an hour on two cores.
SOAK_CASES ?= 500
SOAK_KILLS ?= 50
soak: $(VENV)/run.stamp
	$(BIN)/python benchmarks/soak.py --cases $(SOAK_CASES) --kills $(SOAK_KILLS)

# The tables of docs/results.md: trains and scores every arm on phantoms, in about three hours on two cores. The same
# command resumes after an interruption.
experiment: $(VENV)/run.stamp
	$(BIN)/python -m experiments.arms --out experiment --seeds 3 --jobs 2
	$(BIN)/python -m experiments.table --out experiment

# Beyond the paper: the recipe best-cpu and arms with one thing changed; hours, and it resumes as well.
ladder: $(VENV)/run.stamp
	$(BIN)/python -m experiments.ladder --out experiment --seeds 3 --jobs 2
	$(BIN)/python -m experiments.table --out experiment
	$(BIN)/python -m experiments.selection --out experiment

# Pins the installed versions. torch's local tag (+cpu) is left out, so that any build of that version fits; pip's
# version is the image's, and stays. Then requirements.hashed: PyPI's hashes, and that of torch's build that pip takes.
lock: $(VENV)/dev.stamp
	( grep '^#' requirements.lock; \
	  { grep '^pip==' requirements.lock; $(PIP) list --format=freeze --exclude-editable | grep -v '^pip='; } \
	  | sed 's/^torch==\([0-9.]*\).*/torch==\1/' | sort -f ) >requirements.new
	mv requirements.new requirements.lock
	mkdir -p .lock
	$(PIP) download --quiet --no-deps --dest .lock $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c requirements.lock torch
	$(BIN)/python image/hashes.py .lock >requirements.new
	mv requirements.new requirements.hashed
	rm -rf .lock

clean:
	rm -rf $(VENV) $(DEMO) wheelhouse/*.whl build site *.egg-info
