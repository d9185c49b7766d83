#!/usr/bin/env bash
# Coverage-guided fuzzing of what reads bytes of strangers: each target for some seconds, one after the other. Prints
# executions, coverage and findings; fails where something was found, and says which bytes did it.
#
# Usage: tests/fuzz/run.sh [--seconds N] [--keep] [TARGET...]
#   --seconds N  for each target (10)
#   --keep       write what was learnt, minimised, into tests/fuzz/corpus, which the normal tests replay
# Needs a C++ compiler; no nightly Rust and no cargo-fuzz: stable rustc can instrument for coverage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target="${CARGO_TARGET_DIR:-$PWD/target}/fuzz"
seconds=10
keep=no
names=()

main() {
  while (($#)); do
    case "$1" in
    --seconds) seconds="$2" && shift ;;
    --keep) keep=yes ;;
    -*) echo "usage: tests/fuzz/run.sh [--seconds N] [--keep] [TARGET...]" >&2 && exit 64 ;;
    *) names+=("$1") ;;
    esac
    shift
  done
  if ((${#names[@]} == 0)); then
    for file in tests/fuzz/corpus/*.txt; do
      names+=("$(basename "$file" .txt)")
    done
  fi
  build
  local found=0
  for name in "${names[@]}"; do
    fuzz "$name" || found=$((found + 1))
    [[ $keep == no ]] || keep "$name"
  done
  ((found == 0)) || { echo "$found targets with findings" >&2 && exit 1; }
}

build() {
  if ! command -v c++ >/dev/null; then
    echo "fuzz: a C++ compiler (c++) is missing: libFuzzer is C++" >&2
    exit 1
  fi
  local host
  host="$(rustc -vV | sed -n 's/^host: //p')"
  # With --target build scripts and macros are left uninstrumented.
  RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --quiet --release --locked --target "$host" --target-dir "$target" \
    --manifest-path tests/fuzz/libfuzzer/Cargo.toml
  program="$target/$host/release/libfuzzer"
}

# One target. Starts from what is committed and from what was learnt here before.
fuzz() {
  local name="$1" work="$target/work/$1"
  mkdir -p "$work"/{bin,corpus,findings}
  # The program does what it is called.
  ln -f "$program" "$work/bin/$name"
  unpack "$name" "$work/corpus"
  local log="$work/log" status=0
  (cd "$work/findings" && "$work/bin/$name" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=512 \
    -use_value_profile=1 -print_final_stats=1 -verbosity=1 "$work/corpus") >"$log" 2>&1 || status=$?
  awk -v name="$name" -v status="$status" '
    / cov: / { for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "corp:") corpus = $(i + 1) } }
    /stat::number_of_executed_units/ { executions = $2 }
    /stat::average_exec_per_sec/ { rate = $2 }
    /stat::peak_rss_mb/ { memory = $2 }
    END {
      printf "%-14s %10d executions (%d/s), coverage %d, corpus %s, %d MiB, %s\n", name, executions, rate, cov, corpus,
        memory, status == 0 ? "nothing found" : "FOUND SOMETHING"
    }' "$log"
  if ((status != 0)); then
    tail -n 40 "$log"
    for finding in "$work"/findings/*; do
      [[ -f $finding ]] && echo "$name: $finding: $(base64 -w0 "$finding")"
    done
    return 1
  fi
}

# A corpus is a text file, an input in Base64 on each line.
unpack() {
  local line
  [[ -f tests/fuzz/corpus/$1.txt ]] || return 0
  while read -r line; do
    base64 -d <<<"$line" >"$2/$(sha1sum <<<"$line" | cut -c1-40)"
  done <"tests/fuzz/corpus/$1.txt"
}

# As few inputs as reach everything that was reached; how often they reach it is left to the fuzzer.
keep() {
  local work="$target/work/$1"
  rm -rf "$work/kept" && mkdir "$work/kept"
  "$work/bin/$1" -set_cover_merge=1 -use_counters=0 -max_len=768 "$work/kept" "$work/corpus" >"$work/merge.log" 2>&1
  for file in "$work"/kept/*; do
    base64 -w0 "$file" && echo
  done | LC_ALL=C sort >"tests/fuzz/corpus/$1.txt"
}

main "$@"
