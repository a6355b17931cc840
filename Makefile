# make demo   set up, run the embedded job on real photographs, print where the report is
# make test   set up, run the quick tests of every module: minutes
# make test-all  those, and then the slow ones
# make torture  the reliability battery in full counts: kills, crashes, power cuts, damage
# make parity compare with k-diffusion and diffusers; installs them first
# make gpu    on a CUDA GPU: its tests, then figures and weights of some 20 minutes, in runs/gpu
# make browser  tests of the report and the labelling page in Chromium; fetches one where there is none
# make lint   style, types and directions of import
# make clean  remove what the above made
#
# Another Python: make PYTHON=python3.12 demo.  Another build of torch (for a GPU): create .venv,
# install it there, and run make; a torch that is already there is left alone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
JOB ?= pipelines/jobs/demo.yaml
AT_ONCE ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test test-all browser torture parity gpu lint clean

demo: $(VENV)/.ready
	$(BIN)/polymode run $(JOB)

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(AT_ONCE) --dist loadgroup

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(AT_ONCE) --dist loadgroup -m "slow and not gpu"

# What each of its numbers is: tests/README.md.
torture: $(VENV)/.ready
	POLYMODE_TORTURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/reliability \
		tests/core/test_security.py tests/pipelines/run tests/pipelines/cluster \
		tests/pipelines/sweep tests/pipelines/apply \
		-m "torture or not torture" --durations=20

# k-diffusion without what it requires: its samplers need neither torchvision nor wandb nor clip,
# and not all of those have a CPU build.
parity: $(VENV)/.ready
	$(PIP) install --no-compile -c $(VENV)/constraints.txt -e '.[image2image,medical,cluster,segmentation,video,dev,parity]'
	$(PIP) install --no-compile --no-deps k-diffusion==0.1.1.post1 lpips==0.1.4
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/parity -m parity

# Scripts of tests/benchmarks/gpu in the order of their worth; each writes one JSON, and weights of at
# most 16 MiB a model.  GPU_MINUTES is the time of each script's trainings.
GPU_MINUTES ?= 8
gpu: $(VENV)/.ready
	POLYMODE_GPU=1 $(BIN)/python -m pytest tests/core/test_gpu.py -m gpu
	$(BIN)/python tests/benchmarks/gpu/unet.py
	$(BIN)/python tests/benchmarks/gpu/medical.py --minutes $(GPU_MINUTES) $(MEDICAL)
	$(BIN)/python tests/benchmarks/gpu/image2image.py --minutes $(GPU_MINUTES) $(IMAGES)
	$(BIN)/python tests/benchmarks/gpu/segmentation.py --minutes $(GPU_MINUTES) $(NUCLEI)

# Where a Chromium is on PATH (Debian: apt install chromium) or POLYMODE_CHROMIUM names one, that one.
browser: $(VENV)/.ready
	$(PIP) install --no-compile -c $(VENV)/constraints.txt -e '.[image2image,medical,segmentation,video,dev,browser]'
	$(BIN)/python tests/chromium.py || $(BIN)/playwright install --only-shell chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/pipelines/report/test_browser.py \
		tests/plugins/segmentation/label/test_browser.py -m browser

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): about a gigabyte, a minute or a few"
	$(BIN)/python -c "import torch" 2>/dev/null || \
		$(PIP) install --no-compile "$$(grep '^torch==' constraints.txt)"
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) install --no-compile -c $(VENV)/constraints.txt -e '.[image2image,heic,medical,medical-formats,medical-noncartesian,scans,cluster,segmentation,video,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
