# gridwatch: `make demo` shows the main job, `make test` checks it; both set up what they need in .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format lock wheel clean

help: ## Say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# The run-time install; --no-deps after the lock, so that nothing is resolved anew.
$(VENV)/.run: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -c 'import cv2' || { echo 'opencv-python needs the system library libGL: apt-get install libgl1'; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@

venv: $(VENV)/.dev ## Set up .venv for development

demo: $(VENV)/.run ## Four cameras, four tickets, live in the terminal (DEMO_ARGS=--once ends by itself)
	$(BIN)/gridwatch demo $(DEMO_ARGS)

test: $(VENV)/.dev ## All tests (TEST_ARGS="-k fire" for some)
	$(BIN)/python -m pytest -n auto --dist loadfile $(TEST_ARGS)

lint: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Pin what pyproject.toml asks for into the two lock files
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet '.[console]'
	$(VENV)-lock/bin/pip freeze --exclude gridwatch > requirements.lock
	$(VENV)-lock/bin/pip install --quiet '.[console,dev,notify,postgres]'
	$(VENV)-lock/bin/pip freeze --exclude gridwatch > requirements-dev.lock
	rm -rf $(VENV)-lock

wheel: $(VENV)/.dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(VENV)-lock build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
