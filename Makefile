# make demo   track a made-up video with the shipped 1-bit weights; results in demo/
# make test   lint, types, tests
# make test-all   the slow checks, which `make test` leaves out: whole rehearsals, kernels for ARM,
#   and kernels under sanitizers
# make docs   all documents and the API reference as a site in build/site, which needs no network
# make weights DATA=... TEACHER=...   train RB-SF as the shipped weights were; an hour on a CPU
# make weights-rbsf2 DATA=... TEACHER=BACKBONE.onnx,HEAD.onnx   the same for RB-SF 2
# make weights-cifar100 DATA=...   the same for the classifier; DATA has cifar-100-python/
# make neon   compare the kernels for ARM with the scalar ones in an emulator (needs Debian's
#   g++-aarch64-linux-gnu and qemu-user)
# make wheel  an installable package with kernels for this machine's architecture: dist/rbsf-*.whl
# make operation NAME=add  check that an operation of the engine has all parts (docs/operations.md)
# make sanitize   the engine's tests and a longer fuzz of its loader, on kernels built with
#   sanitizers (GCC, Linux): for addresses and undefined behaviour, then for threads
# make fuzz EXAMPLES=5000   test every parser of files on so many damaged files
# make soak HOURS=1   test kills, stops, full disks and second processes, again and again
# Each target creates .venv and installs what it needs there.

# TORCH_FLAGS is passed to the pip call that installs PyTorch. On Linux its default build brings
# gigabytes for NVIDIA GPUs. For a build for CPUs only:
#   make demo TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH_FLAGS ?=
BIN := .venv/bin

.PHONY: demo test test-all docs lint fuzz soak weights weights-rbsf2 weights-cifar100 neon wheel operation sanitize clean

demo: .venv/.ready
	$(BIN)/python tools/demo.py --out demo

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-all: .venv/.ready sanitize
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile

# EXAMPLES damaged files for each parser.
fuzz: .venv/.ready
	ulimit -v 12000000 && RBSF_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/python -m pytest -m "slow or not slow" tests/test_fuzz.py

# Faults at random, again and again, for HOURS.
soak: .venv/.ready
	RBSF_SOAK_HOURS=$(or $(HOURS),1) $(BIN)/python -m pytest -m slow tests/test_faults.py

# The variable silences an advertisement of the theme.
docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

neon: .venv/.ready
	$(BIN)/python -m pytest -m slow tests/test_kernels_of_arm.py

wheel: .venv/.ready
	rm -rf build/lib* build/bdist* dist/rbsf-*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -m zipfile --list dist/rbsf-*.whl | grep engine/_native > /dev/null \
	  || { echo "error: the wheel has no kernels; is there a C++ compiler?"; exit 1; }
	ls dist

operation: .venv/.ready
	$(BIN)/python -m pytest tests/test_operations.py tests/test_readme.py::test_what_a_packed_file_can_hold_is_listed \
	  --operation $(or $(NAME),$(error make operation needs NAME=OPERATION))

# Train as the shipped weights were trained, from raw data. DATA has stills/ and GOT-10k/train, or
# other videos in that layout. TEACHER is a float SiamFC. After an interruption the same command
# goes on.
WEIGHTS := runs/weights
PAIRS = --data $(or $(DATA),$(error make weights needs DATA=FOLDER, see docs/guide/train.md))/GOT-10k/train --data $(DATA)/stills --data $(WEIGHTS)/synthetic
weights: .venv/.ready
	test -f $(WEIGHTS)/synthetic/list.txt || $(BIN)/python tools/make_synthetic.py --count 16 --frames 60 --seed 100 --out $(WEIGHTS)/synthetic
	$(BIN)/python tools/train_rbsf.py --config configs/shipped.yaml $(PAIRS) --teacher $(or $(TEACHER),$(error make weights needs TEACHER=FILE, see docs/guide/train.md)) --out $(WEIGHTS)/rbsf $(if $(wildcard $(WEIGHTS)/rbsf/config.yaml),--resume)

# DATA also has pictures without boxes in stills_unlabelled/ and videos without boxes in unlabelled/;
# TEACHER is NanoTrack v3.
# The annotated videos are few, so they are given five times.
STORE := $(WEIGHTS)/pairs.db
ANNOTATED := $(WEIGHTS)/annotated.db
weights-rbsf2: .venv/.ready
	$(BIN)/python tools/make_tracks.py --videos $(or $(DATA),$(error make weights-rbsf2 needs DATA=FOLDER))/unlabelled --teacher $(TEACHER) --out $(WEIGHTS)/tracks
	$(BIN)/python tools/make_tracks.py --videos $(DATA)/stills_unlabelled --teacher $(TEACHER) --count 2 --out $(WEIGHTS)/pictures
	test -f $(WEIGHTS)/synthetic60/list.txt || $(BIN)/python tools/make_synthetic.py --count 60 --frames 60 --seed 100 --out $(WEIGHTS)/synthetic60
	$(BIN)/python tools/prepare_pairs.py --data $(DATA)/stills --data $(WEIGHTS)/pictures --data $(WEIGHTS)/tracks --data $(WEIGHTS)/synthetic60 --out $(STORE) --max-per-sequence 80 --skip-broken
	$(BIN)/python tools/prepare_pairs.py --data $(DATA)/GOT-10k/train --out $(ANNOTATED) --max-per-sequence 80 --skip-broken
	$(BIN)/python tools/train_rbsf.py --model rbsf2 --data $(STORE) $(foreach time,1 2 3 4 5,--data $(ANNOTATED)) --teacher $(or $(TEACHER),$(error make weights-rbsf2 needs TEACHER=BACKBONE.onnx,HEAD.onnx)) --out $(WEIGHTS)/rbsf2 $(if $(wildcard $(WEIGHTS)/rbsf2/config.yaml),--resume)

weights-cifar100: .venv/.ready
	$(BIN)/python tools/train_classifier.py --config blocks_cifar --root $(or $(DATA),$(error make weights-cifar100 needs DATA=FOLDER)) --threads 1 --teacher docs/experiments/cifar100_float_15/resnet18.safetensors --out $(WEIGHTS)/cifar100 $(if $(wildcard $(WEIGHTS)/cifar100/config.yaml),--resume)

# build/sanitize gets a copy of the packages with kernels that stop at the first bad read, write or
# overflow. build/sanitize-threads gets one with kernels that stop when two threads first use the
# same memory at once. setuptools compiles C++ with CXXFLAGS or CFLAGS, depending on its version.
# Symbols are checked, because a library without the sanitizer's symbols would pass every test.
SANITIZED := build/sanitize
ENGINE_TESTS := test_engine.py test_extension.py test_network.py test_packed.py test_network_file.py test_damaged_files.py
library = $$(gcc -print-file-name=$(1))
sanitize: .venv/.ready
	$(call built_with,$(SANITIZED),address$(,)undefined,__asan_init)
	$(call tested_with,$(SANITIZED),$(call library,libasan.so) $(call library,libstdc++.so),RBSF_FUZZ=20000 OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0)
	$(call built_with,$(SANITIZED)-threads,thread,__tsan_init)
	$(call tested_with,$(SANITIZED)-threads,$(call library,libtsan.so),RBSF_FUZZ=500 TSAN_OPTIONS="halt_on_error=1 die_after_fork=0 ignore_noninstrumented_modules=1")

, := ,
# built_with FOLDER,SANITIZERS,SYMBOL: build the packages; fail if the extension lacks the symbol
define built_with
flags="-fsanitize=$(2) -O1 -g $(if $(findstring undefined,$(2)),-fno-sanitize-recover=undefined)"; \
  CFLAGS="$$flags" CXXFLAGS="$$flags" LDFLAGS="-fsanitize=$(2)" \
  $(BIN)/python setup.py --quiet build --build-base $(1) --build-lib $(1)/lib --force
nm -D $(1)/lib/rbsf/engine/_native*.so | grep -q $(3) || { echo "$(1): the extension has no $(3): nothing would be tested"; exit 1; }
endef
# tested_with FOLDER,LIBRARIES,VARIABLES: run the engine's tests on these packages
define tested_with
cd $(1)/lib && $(3) PYTHONPATH= LD_PRELOAD="$(2)" \
  $(CURDIR)/$(BIN)/python -m pytest --noconftest -p no:cacheprovider $(addprefix $(CURDIR)/tests/,$(ENGINE_TESTS))
endef

# The constraints name exact versions; torch comes first, so that nothing else chooses its build.
.venv/.ready: pyproject.toml constraints.txt setup.py $(wildcard rbsf/engine/native/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_FLAGS) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build
