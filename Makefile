# `make demo` on a bare machine: python3 and git are enough, nothing is installed outside this folder.
.DEFAULT_GOAL := help
.PHONY: help demo test check nano-bundle

# uv from the machine where it is there, else a private one.
UV := $(or $(shell command -v uv),.uv/bin/uv)
RUN := $(UV) run --frozen --extra pipeline
# All that the tests try for real: published formats, Ray, buckets.
RUN_ALL := $(RUN) --extra extractors --extra cluster --extra serve --extra s3 --extra watch --extra orchestrate --extra study

help:
	@echo "make demo    a model from nothing, in minutes: v2meow-demo/"
	@echo "make test    all tests"
	@echo "make nano-bundle   train the model that comes with the package anew: nano-bundle/"
	@echo "make check   lint, format, types and the import rules"

demo: | $(UV)
	$(RUN) --no-dev v2meow demo

test: | $(UV)
	$(RUN_ALL) pytest

check: | $(UV)
	$(RUN_ALL) ruff check
	$(RUN_ALL) ruff format --check
	$(RUN_ALL) pyright
	$(RUN_ALL) lint-imports

# Two hours on two cores. Killed and started again, it goes on where it was.
nano-bundle: | $(UV)
	$(RUN) --no-dev v2meow init nano-bundle --recipe nano-long
	$(RUN) --no-dev v2meow synth nano-bundle/data/raw --videos 1500 --seed 1
	$(RUN) --no-dev v2meow run --workspace nano-bundle
	rm -rf v2meow/shipped/nano && mkdir -p v2meow/shipped && cp -r nano-bundle/models/bundle v2meow/shipped/nano
	cp nano-bundle/reports/metrics.json v2meow/shipped/nano-metrics.json
	cp nano-bundle/reports/verdict.json v2meow/shipped/nano-verdict.json

.uv/bin/uv:
	python3 -m pip install --quiet --target .uv "uv>=0.9,<1"
