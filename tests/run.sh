#!/usr/bin/env bash
# Every check that a change must pass: format, lints, then unit, property and integration tests.
# The last line of output is `N passed, N failed`, summed over all test programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
log="$target/tests.log"
mkdir -p "$target"

step() { printf '\n== %s\n' "$*"; }

step "what the tests need"
bash tests/setup.sh "$target"

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "tests"
# Builds the binary too, which the integration tests start. Shows what passing tests print: the figures measured.
status=0
cargo test --workspace --locked --no-fail-fast -- --show-output 2>&1 | tee "$log" || status=$?

# `test result: FAILED. 3 passed; 1 failed; …`, one line for each test program. One that did not compile or died
# without such a line shows in the exit status alone.
read -r passed failed < <(awk '/^test result: / {
  for (field = 2; field <= NF; field++) {
    if ($field ~ /^passed/) passed += $(field - 1)
    if ($field ~ /^failed/) failed += $(field - 1)
  }
} END { print passed + 0, failed + 0 }' "$log")
if ((status != 0 && failed == 0)); then
  echo "a test program did not compile or did not finish: see above" >&2
  failed=1
fi
if ((passed == 0)); then
  echo "no test was run" >&2
  status=1
fi
echo
sed -n 's/^.*tests: not run: /not run: /p' "$log" | sort -u
echo "$passed passed, $failed failed"
exit "$status"
