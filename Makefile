# make train       set up .venv, train the quickstart twice (baseline and R-Drop), evaluate and compare; 2 cores, minutes
# make dashboard   show the runs under output/, or those of another folder with FOLDER=results/digits_quickstart, in a browser
# make test        set up .venv with the test packages and run the tests
# make lint        check style
# make bench       training speed against torch on this machine, a quiet one; minutes on 2 cores
PYTHON ?= python3
BIN := .venv/bin
FOLDER ?= output

.PHONY: train dashboard test lint bench

train: .venv/installed
	$(BIN)/python tools/quickstart.py

dashboard: .venv/installed
	$(BIN)/python tools/dashboard.py $(FOLDER)

test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow"

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
