#!/usr/bin/env bash
# Real encoders against Headwater, alone (`make test` runs them too).
#
# Usage: tests/encoders/run.sh [--record] [FILTER...]
#   --record  record anew what each encoder sends, into crates/rtmp/tests/transcripts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
bash tests/encoders/setup.sh "$target"
cargo build --quiet --locked --package headwater
if [[ ${1:-} == --record ]]; then
  exec cargo run --quiet --locked --package tests --example record_encoders -- crates/rtmp/tests/transcripts
fi
exec cargo test --locked --package tests --test encoders -- --show-output "$@"
