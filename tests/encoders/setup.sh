#!/usr/bin/env bash
# Gets the encoders and players of the tests: Debian's into a root directory of their own (nothing is installed on this
# system), those of PyPI into a Python environment; both kept under the home directory. Says exactly what is missing
# where it can't, and then fails.
#
# Usage: tests/encoders/setup.sh TARGET_DIRECTORY
# What it gets is at TARGET_DIRECTORY/encoders: `root` and `python`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
target="$1"
# Counted up when the same lists are to be made into something else.
recipe=1

main() {
  mkdir -p "$target"
  made="$(cache)/$(fingerprint)"
  mkdir -p "$made"
  forget_old_versions
  check_namespaces
  # Two test runs at once make them once. A run that has everything waits for nobody.
  if [[ ! -f $made/root/.complete || ! -f $made/python/.complete ]]; then
    exec 9>"$made/.lock"
    flock 9
  fi
  [[ -f $made/root/.complete ]] || make_root
  [[ -f $made/python/.complete ]] || make_python
  report
  ln -sfn "$made" "$target/encoders"
}

missing=()

say() { echo "encoders: $*" >&2; }

# Kept between checkouts where there is a home directory to write to.
cache() {
  local kept="${HOME:-}/.cache/headwater/encoders"
  if [[ -n ${HOME:-} ]] && mkdir -p "$kept" 2>/dev/null && [[ -w $kept ]]; then
    echo "$kept"
  else
    echo "$target/encoders-made"
  fi
}

fingerprint() {
  { echo "$recipe" && cat "$here/debian.txt" "$here/requirements.txt"; } | sha256sum | cut -c1-16
}

# What no checkout has asked for in two weeks.
forget_old_versions() {
  touch "$made"
  find "$(dirname "$made")" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -rf {} +
}

# Debian's clients run in their own root directory, and each with a file system of its own.
check_namespaces() {
  local as_root=(--map-root-user)
  ((EUID != 0)) || as_root=()
  unshare --mount "${as_root[@]}" true 2>/dev/null ||
    missing+=("mount namespaces: be root, or allow user namespaces (util-linux: unshare)")
}

make_root() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    missing+=("the clients of Debian 12 in debian.txt (no apt-get and dpkg-deb here to get them with)")
    return 0
  fi
  local state="$made/apt" root="$made/root" packages
  mapfile -t packages < <(grep -v '^#' "$here/debian.txt")
  rm -rf "$state" "$root"
  # A package system that has nothing installed: what is downloaded is complete, whatever this system has.
  mkdir -p "$state"/{lists,archives}/partial
  : >"$state/status"
  say "getting ${#packages[@]} Debian packages and what they need"
  if ! { apt "$state" update && apt "$state" install --download-only "${packages[@]}"; } >&2; then
    missing+=("clients of Debian 12: apt-get could not download those of debian.txt (see above)")
    return 0
  fi
  say "unpacking them"
  unpack "$state" "$root"
  rm -rf "$state"
  touch "$root/.complete"
}

apt() {
  local state="$1"
  shift
  DEBIAN_FRONTEND=noninteractive apt-get -q=2 -y --no-install-recommends -o Dir::State="$state" \
    -o Dir::State::status="$state/status" -o Dir::State::lists="$state/lists" -o Dir::Cache="$state" \
    -o Dir::Cache::archives="$state/archives" -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 "$@"
}

# No script of a package is run: what a few of them would have done follows.
unpack() {
  local state="$1" root="$2" directory package library
  mkdir -p "$root"/{dev,proc,sys,tmp,mnt,etc/ssl/certs} "$root"/usr/{bin,sbin,lib,lib32,lib64,libx32}
  for directory in bin sbin lib lib32 lib64 libx32; do
    ln -s "usr/$directory" "$root/$directory"
  done
  for package in "$state"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --keep-directory-symlink --no-same-owner \
      --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale'
  done
  for library in "$root"/usr/lib/*/{blas/libblas,lapack/liblapack}.so.3; do
    ln -sr "$library" "$(dirname "$library")/.."
  done
  echo "127.0.0.1 localhost" >"$root/etc/hosts"
  echo "hosts: files" >"$root/etc/nsswitch.conf"
  printf '%s\n' 'root:x:0:0::/mnt:/bin/sh' >"$root/etc/passwd"
}

make_python() {
  # 3.11: PyAV has no package for older ones.
  if ! python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    missing+=("python3, 3.11 or later, with the modules venv and ensurepip")
    return 0
  fi
  say "making a Python environment"
  rm -rf "$made/python"
  if ! { python3 -m venv "$made/python" &&
    "$made/python/bin/python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt"; } >&2; then
    missing+=("Python packages of tests/encoders/requirements.txt (pip could not install them: see above)")
    return 0
  fi
  ln -s "$("$made/python/bin/python" -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')" \
    "$made/python/bin/ffmpeg9"
  touch "$made/python/.complete"
}

report() {
  ((${#missing[@]})) || return 0
  {
    echo
    echo "The tests with real encoders cannot run. Missing:"
    printf '  - %s\n' "${missing[@]}"
  } >&2
  exit 1
}

main
