# Everything a clone can be asked to do. Each environment is made once and rebuilt when its inputs change.
PYTHON ?= python3
TEST_PYTHON := .venv-test/bin/python
TEST_EXTRAS := torch,cpu,test,bench,dev

.PHONY: help demo test coverage lint format kernels bench clean

help:
	@echo "make demo      compile a function and show its graph, kernels, gradient check and timings"
	@echo "make test      the whole test suite, in an environment with torch, triton and the tools"
	@echo "make coverage  the test suite with line and branch coverage of tgc/"
	@echo "make lint      ruff check, ruff format --check, mypy --strict"
	@echo "make format    ruff's fixes and formatting"
	@echo "make kernels   regenerate kernels/generated"
	@echo "make bench     python -m bench seeds"

# numpy and sympy alone.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# Always through the constraints file: a range would take the newest torch, with its gigabytes.
.venv-test/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-test
	$(TEST_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(TEST_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(TEST_EXTRAS)]"
	@touch $@

demo: .venv/.installed
	.venv/bin/tgc demo

test: .venv-test/.installed
	$(TEST_PYTHON) -m pytest -n 2 --dist worksteal

coverage: .venv-test/.installed
	$(TEST_PYTHON) -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered

lint: .venv-test/.installed
	$(TEST_PYTHON) -m ruff check .
	$(TEST_PYTHON) -m ruff format --check .
	$(TEST_PYTHON) -m mypy

format: .venv-test/.installed
	$(TEST_PYTHON) -m ruff check --fix .
	$(TEST_PYTHON) -m ruff format .

kernels: .venv-test/.installed
	$(TEST_PYTHON) -m kernels.generate

bench: .venv-test/.installed
	$(TEST_PYTHON) -m bench seeds

clean:
	rm -rf .venv .venv-test .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
