# check: lint, format, types · test: the default tests · test-all: the slow ones too · smoke: a one-minute real run
PYTHON ?= python

.PHONY: check test test-all smoke

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

test:
	$(PYTHON) -m pytest

test-all:
	$(PYTHON) -m pytest -m "not gpu and not network and not browser and not llama"

smoke:
	rm -rf build/smoke
	$(PYTHON) -m danlu demo --minutes 1 --out build/smoke --json
