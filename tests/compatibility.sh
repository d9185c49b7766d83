#!/usr/bin/env bash
# An edge of the version before beside control and origins of this one, and the other way round, as they stand side by
# side during an upgrade. That version is built here, apart from everything else: it is the program as it was before the
# last commit that changed it (in working copies with changes, the last commit's own), or COMMIT.
#
# Usage: tests/compatibility.sh [COMMIT]      needs the history of that commit, and what tests/setup.sh brings
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
apart="$target/previous"
# What the program is made of.
sources=(crates proto Cargo.toml Cargo.lock rust-toolchain.toml)

main() {
  local commit
  commit="$(previous "${1:-}")"
  build "$commit"
  cargo run --quiet --locked --package tests --example compatibility -- "$apart/$commit"
}

previous() {
  local commit="$1" changed
  git rev-parse --quiet --verify HEAD >/dev/null || die "this is no clone with a history"
  if [[ -z $commit ]] && ! git diff --quiet HEAD -- "${sources[@]}"; then
    commit=HEAD
  elif [[ -z $commit ]]; then
    changed="$(git log -1 --first-parent --format=%H HEAD -- "${sources[@]}")"
    commit="$changed^1"
  fi
  git rev-parse --quiet --verify "$commit^{commit}" || {
    [[ $(git rev-parse --is-shallow-repository) == false ]] || die "this clone is shallow: git fetch --unshallow"
    die "there is no commit $commit"
  }
}

# A program of its own for each commit, kept; the newest three.
build() {
  local commit="$1" source="$apart/source"
  if [[ -x $apart/$commit ]]; then
    touch "$apart/$commit"
    return 0
  fi
  echo "compatibility: building $(git log -1 --format='%h, %s' "$commit")"
  rm -rf "$source"
  mkdir -p "$source"
  # Everything is of now, so that nothing that was built of another commit passes for up to date.
  git archive "$commit" | tar --extract --touch --directory "$source"
  seed
  (cd "$source" && CARGO_TARGET_DIR="$apart/target" CARGO_PROFILE_DEV_DEBUG=false \
    cargo build --quiet --locked --package headwater)
  rm -rf "$source"
  cp "$apart/target/debug/headwater" "$apart/.new"
  mv "$apart/.new" "$apart/$commit"
  find "$apart" -maxdepth 1 -type f -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d' ' -f2- | xargs -r rm --
}

# The first time: a copy of the dependencies that are compiled here already. Copied, not linked: nothing that is built
# there reaches what is here.
seed() {
  local from="$target/debug" to="$apart/target/debug"
  [[ ! -d $to && -d $from/deps ]] || return 0
  mkdir -p "$to/deps"
  find "$from/deps" -name 'lib*' -print0 | xargs -0 cp --reflink=auto --preserve=timestamps --target-directory "$to/deps"
  find "$from/deps" -name '*.d' -print0 | xargs -0 cp --reflink=auto --preserve=timestamps --target-directory "$to/deps"
  cp --recursive --reflink=auto --preserve=timestamps,links "$from/build" "$from/.fingerprint" "$to"
}

die() {
  echo "compatibility: $*" >&2
  exit 1
}

main "$@"
