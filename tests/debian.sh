# shellcheck shell=bash
# Sourced by tests/setup.sh and tests/kube/setup.sh, which keep in `missing` what they could not get.

# Installs Debian packages, as root or with a password-free sudo: PACKAGES…
install_packages() {
  (($#)) || return 0
  local as_root=()
  if ((EUID != 0)); then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      missing+=("Debian packages: $* (not root and no password-free sudo to install them)")
      return 0
    fi
  fi
  if ! command -v apt-get >/dev/null; then
    missing+=("the programs of the Debian packages: $* (no apt-get here; install them your system's way)")
    return 0
  fi
  echo "tests: installing $*" >&2
  # The packaged servers are not to start by themselves: the tests start their own on free ports.
  if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
      apt-get install -q -y --no-install-recommends "$@"; } >&2; then
    missing+=("Debian packages: $* (apt-get could not install them: see above)")
  fi
}
