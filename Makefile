# make train       set up .venv, train the quickstart twice (baseline and R-Drop), evaluate and compare; 2 cores, minutes
# make dashboard   show the runs under output/, or those of another folder with FOLDER=results/digits_quickstart, in a browser
# make test        set up .venv with the test packages and run the tests
# make test-matrix the same tests on Paddle 2.6.2, which `pip install paddlepaddle-gpu` gives, in .venv-paddle2
# make lint        check style
# make bench       training speed against torch on this machine, a quiet one; minutes on 2 cores
PYTHON ?= python3
BIN := .venv/bin
FOLDER ?= output

.PHONY: train dashboard test test-matrix lint bench

train: .venv/installed
	$(BIN)/python tools/quickstart.py

dashboard: .venv/installed
	$(BIN)/python tools/dashboard.py $(FOLDER)

# those with several ranks wait more than they compute: one process has them one after the other, while others run the rest
test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadgroup

test-matrix: .venv-paddle2/installed
	OMP_NUM_THREADS=1 .venv-paddle2/bin/python -m pytest -m "not slow" --numprocesses auto --dist loadgroup

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/installed-dev
	$(BIN)/python tools/benchmark.py -c configs/vit_ti16_cifar100_rdrop.yaml --ranks 2 --against torch

.venv/installed: requirements.txt
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	touch $@

.venv-paddle2/installed: requirements-paddle2.txt
	.venv-paddle2/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-paddle2
	.venv-paddle2/bin/python -m pip install --disable-pip-version-check --quiet -r requirements-paddle2.txt
	touch $@
