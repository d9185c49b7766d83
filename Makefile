# What a developer types. Each target says what it needs; `make` alone lists them.

.PHONY: help run test lint fmt bench charts dashboards

help:
	@echo 'make run    build and start Headwater in one process (needs Rust, a C compiler and make)'
	@echo 'make test   install what the tests need, then check formatting, lints and every test'
	@echo 'make lint   formatting and clippy only'
	@echo 'make fmt    format the source'
	@echo 'make charts write the CRDs and what else the charts hold of other files (needs PyYAML; make test brings it)'
	@echo 'make dashboards  write deploy/monitoring/dashboards from their description (needs Python)'
	@echo 'make bench  load a running server: make bench ARGS="publish --help"'

# Arguments for the program: make run ARGS="--data-dir /tmp/headwater"
ARGS ?=

run:
	cargo run --release --package headwater -- standalone $(ARGS)

test:
	bash tests/run.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt:
	cargo fmt --all

bench:
	cargo run --release --package headwater -- bench $(ARGS)

# With PyYAML: make test puts one into the target directory.
PYTHON ?= $(or $(wildcard $(or $(CARGO_TARGET_DIR),target)/python/bin/python),python3)

charts:
	cargo run --quiet --package headwater -- crds charts/headwater-crds/files
	$(PYTHON) charts/generate.py

dashboards:
	python3 deploy/monitoring/dashboards.py
