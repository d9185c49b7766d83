# What a developer types. Each target says what it needs; `make` alone lists them.

.PHONY: help run test lint fmt bench charts dashboards image sbom e2e chaos compatibility fuzz simulate test-encoders

help:
	@echo 'make run         build and start Headwater in one process (needs Rust, a C compiler and make)'
	@echo 'make test        install what the tests need, then check formatting, lints and every test'
	@echo 'make e2e         from helm install to a stream and back, on a Kubernetes on this machine (needs root, Debian and Go)'
	@echo 'make chaos       every fault under load, in network namespaces, and a table of what came of it: an hour at most (needs root)'
	@echo 'make compatibility  an edge of the version before beside this control and origins, and the other way round (needs the history)'
	@echo 'make test-encoders  of the tests those with OBS, FFmpeg, GStreamer alone; ARGS=--record records what they send'
	@echo 'make fuzz        look for bytes that break a promise: make fuzz SECONDS=60 (needs a C++ compiler)'
	@echo 'make simulate    ownership under faults, in more orders of events than the tests try: make simulate SEEDS=100000'
	@echo 'make lint        formatting and clippy only'
	@echo 'make fmt         format the source'
	@echo 'make bench       load a running server: make bench ARGS="publish --help"'
	@echo 'make image       the container image as an OCI archive, without a daemon (needs Debian, python3 and binutils)'
	@echo 'make sbom        the software bill of materials of the program (SPDX)'
	@echo 'make charts      write what the charts hold of other files: CRDs, alerts, dashboards (needs PyYAML; make test brings it)'
	@echo 'make dashboards  write deploy/monitoring/dashboards from their description (needs Python)'

# Arguments for the program: make run ARGS="--data-dir /tmp/headwater"
ARGS ?=

run:
	cargo run --release --package headwater -- standalone $(ARGS)

test:
	bash tests/run.sh

e2e:
	bash tests/e2e/run.sh $(ARGS)

# Of the development build: make chaos ARGS="--only origin --rounds 3 --publishers 20"; --list names the faults.
chaos:
	bash tests/setup.sh "$(or $(CARGO_TARGET_DIR),target)"
	cargo build --workspace --bin headwater --example chaos
	"$(or $(CARGO_TARGET_DIR),target)/debug/examples/chaos" $(ARGS)

compatibility:
	bash tests/setup.sh "$(or $(CARGO_TARGET_DIR),target)"
	bash tests/compatibility.sh $(ARGS)

test-encoders:
	bash tests/encoders/run.sh $(ARGS)

# Seconds for each target; more in ARGS: make fuzz SECONDS=600 ARGS="--keep session"
SECONDS ?= 10

fuzz:
	bash tests/fuzz/run.sh --seconds $(SECONDS) $(ARGS)

SEEDS ?= 100000

# The tests' own runs are at least as many as they are without this.
simulate:
	PROPTEST_CASES=$(SEEDS) cargo test --package origin --lib one_owner_remains -- --nocapture

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt:
	cargo fmt --all

bench:
	cargo run --release --package headwater -- bench $(ARGS)

# Where the release build and what is made from it are.
TARGET ?= $(or $(CARGO_TARGET_DIR),target)

# For another architecture: make image TRIPLE=aarch64-unknown-linux-gnu, with its Rust target (rustup target add), its
# compiler (gcc-aarch64-linux-gnu) and qemu-user.
TRIPLE ?=
ifneq ($(TRIPLE),)
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER ?= aarch64-linux-gnu-gcc
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER ?= x86_64-linux-gnu-gcc
endif

image:
	cargo build --release --locked --package headwater $(addprefix --target ,$(TRIPLE))
	bash deploy/image/make.sh $(TARGET)/$(addsuffix /,$(TRIPLE))release/headwater $(TARGET)/$(addsuffix /,$(TRIPLE))image/headwater.tar

sbom:
	python3 deploy/image/sbom.py --target "$$(rustc -vV | sed -n 's/^host: //p')" $(TARGET)/image/headwater.spdx.json
	@echo $(TARGET)/image/headwater.spdx.json

# With PyYAML: make test puts one into the target directory.
PYTHON ?= $(or $(wildcard $(TARGET)/python/bin/python),python3)

charts:
	cargo run --quiet --package headwater -- crds charts/headwater-crds/files
	$(PYTHON) charts/generate.py

dashboards:
	python3 deploy/monitoring/dashboards.py
