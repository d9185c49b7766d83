#!/usr/bin/env bash
# Real Kubernetes, real images, real encoders, and the version before beside this one: what `make e2e` runs. Needs root on Debian, and gets the rest itself.
#
# Usage: tests/e2e/run.sh [--only PART] [--keep] [--reuse]     (see e2e.py --help)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
mkdir -p "$target"

if ((EUID != 0)); then
  echo "e2e: needs root: a node makes namespaces, mounts and bridges" >&2
  exit 1
fi
(cd tests/e2e && python3 -m unittest --quiet)
bash tests/setup.sh "$target"
bash tests/kube/setup.sh cluster "$target" >/dev/null
program="${HEADWATER_PROGRAM:-}"
if [[ -z $program ]]; then
  cargo build --package headwater --locked
  # Another build of the same directory may replace it meanwhile.
  mkdir -p "$target/e2e-images"
  cp "$target/debug/headwater" "$target/e2e-images/headwater"
  program="$target/e2e-images/headwater"
fi
# Not a part of anything smaller.
(($#)) || bash tests/compatibility.sh
exec python3 tests/e2e/e2e.py --work "$target/e2e" --program "$program" "$@"
