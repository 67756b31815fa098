# Everything happens in this checkout: .venv holds the environment, demo/ the demo.
SHELL := /bin/bash
VENV := $(CURDIR)/.venv
PYTEST_ARGS ?=

.PHONY: help setup test demo docs lint clean

help:
	@echo "make setup  .venv with DIALS and dials_diffuse (PYTHON=... names a Python with DIALS)"
	@echo "make demo   simulated stills with a known truth, reduced to a map and compared with it"
	@echo "make test   the test suite (PYTEST_ARGS=... are passed on)"
	@echo "make docs   the pages of docs/commands, from the commands themselves"
	@echo "make lint   ruff (rules and format) and mypy"
	@echo "make clean  remove .venv, demo/ and caches"

setup:
	@.ci/setup

test: setup
	@PATH="$(VENV)/bin:$$PATH" $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

demo: setup
	@PATH="$(VENV)/bin:$$PATH" .ci/demo

docs: setup
	@$(VENV)/bin/python docs/generate_commands.py

lint: setup
	@for tool in ruff mypy; do $(VENV)/bin/python -m $$tool --version >/dev/null 2>&1 || \
		$(VENV)/bin/python -m pip -q install $$tool || exit; done
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
