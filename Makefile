# The commands of development; CONTRIBUTING.md says more. `make` alone lists them.
.DEFAULT_GOAL := help
BIN := .venv/bin

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

.venv: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install -q -e '.[dev]'
	touch .venv

check: .venv ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv ## what ruff can put right by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: .venv ## the tests of every change
	$(BIN)/python -m pytest

slow: .venv ## the tests that take long
	$(BIN)/python -m pytest -m slow

docs: .venv ## generated pages, then the site in site/
	$(BIN)/python docs/make_parameters.py
	$(BIN)/mkdocs build --strict

.PHONY: help check fix test slow docs
