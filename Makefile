# make demo   track a made-up video with the shipped 1-bit weights; results in demo/
# make test   lint, types, tests
# Both create .venv and install into it what they need.

# TORCH_FLAGS goes to the pip call that installs PyTorch: on Linux its default build brings gigabytes for NVIDIA GPUs;
# for CPUs alone:  make demo TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH_FLAGS ?=
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/.ready
	$(BIN)/python tools/demo.py --out demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The constraints name exact versions; torch comes first, so that nothing else chooses it.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_FLAGS) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,log]"
	touch $@

clean:
	rm -rf .venv demo
