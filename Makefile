# make demo: the whole pipeline on this machine.   make test: the tests.   Both install first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# A file's tests stay together: they share what they made; the longest first (tests/conftest.py).
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

MODEL ?= grpo
PORT ?= 8000

.PHONY: help venv demo test test-long ratios lint ui export serve clean-checkpoints

help:
	@echo "make demo   install into .venv, run the whole pipeline (dvc repro), show the result"
	@echo "make test   install into .venv, run the tests"
	@echo "make ui     MLflow's UI on http://127.0.0.1:5000"
	@echo "make export the final models as folders with their cards: exports/grpo, exports/student"
	@echo "make serve  an OpenAI-style server of the final model (MODEL=grpo PORT=8000)"
	@echo "make lint   ruff"
	@echo "make ratios after make demo: has anything become much slower? (benchmarks/README.md)"
	@echo "make clean-checkpoints   remove what killed trainings would go on from"

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing the pinned packages into .venv (3 to 6 minutes, 2.5 GB; more with CUDA) ..."
	@$(PYTHON) -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit("Python 3.11 is needed; say make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt ".[test]"
	@$(BIN)/python -m stages.core.schema  # else the first stage reads it, and could not be forked
	@touch $@

demo: venv
	@echo "Running the pipeline on the embedded default (2 to 4 minutes on 2 cores) ..."
	dvc repro
	@echo
	@cat reports/table.txt
	@echo
	@echo "The report: reports/report.html. Next:"
	@echo "  source .venv/bin/activate"
	@echo "  make ui                                    # compare runs in MLflow"
	@echo "  dvc exp run -S grpo.kl_coef=0.01           # try something"

test: venv
	pytest $(SIDE_BY_SIDE) --durations=15

test-long: venv
	pytest $(SIDE_BY_SIDE) -m long --durations=15

ratios: venv
	python -m benchmarks.ratios

lint: venv
	ruff check . && ruff format --check .

ui: venv
	-python -m stages.core.restored
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

export: venv
	python -m stages.export grpo
	python -m stages.export student

serve: venv
	python -m stages.serve --model $(MODEL) --port $(PORT)

clean-checkpoints:
	@du -sh .cache/checkpoints/* 2>/dev/null || echo "no checkpoints"
	@rm -rf .cache/checkpoints
