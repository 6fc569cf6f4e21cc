# `make demo` on a bare machine: python3 and git are enough, nothing is installed outside this folder.
.DEFAULT_GOAL := help
.PHONY: help demo test check

# uv from the machine where it is there, else a private one.
UV := $(or $(shell command -v uv),.uv/bin/uv)
RUN := $(UV) run --frozen --extra pipeline

help:
	@echo "make demo    a model from nothing, in minutes: v2meow-demo/"
	@echo "make test    all tests"
	@echo "make check   lint, format, types and the import rules"

demo: | $(UV)
	$(RUN) --no-dev v2meow demo

test: | $(UV)
	$(RUN) pytest

check: | $(UV)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) pyright
	$(RUN) lint-imports

.uv/bin/uv:
	python3 -m pip install --quiet --target .uv "uv>=0.9,<1"
