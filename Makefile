# What a developer types. Each target says what it needs; `make` alone lists them.

.PHONY: help run test lint fmt bench dashboards

help:
	@echo 'make run    build and start Headwater in one process (needs Rust, a C compiler and make)'
	@echo 'make test   install what the tests need, then check formatting, lints and every test'
	@echo 'make lint   formatting and clippy only'
	@echo 'make fmt    format the source'
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

dashboards:
	python3 deploy/monitoring/dashboards.py
