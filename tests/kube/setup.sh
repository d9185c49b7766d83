#!/usr/bin/env bash
# Gets the programs of a real Kubernetes: taken from KUBEBUILDER_ASSETS where that is set, etcd and the container
# runtime from Debian packages, everything else built from source (tests/kube/tools) once and kept under the home
# directory. Says exactly what is missing where it can't, and then fails.
#
# Usage: tests/kube/setup.sh control-plane|cluster [TARGET_DIRECTORY]
#   control-plane  etcd, kube-apiserver, kube-controller-manager, kubectl, helm 4 and 3; cert-manager's controllers, and
#                  what it and the Prometheus operator define
#   cluster        the former five, and what a node runs (needs root)
# The last line of its output is the directory with the programs: TARGET_DIRECTORY/kube/bin.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../debian.sh"
profile="${1:-}"
target="${2:-${CARGO_TARGET_DIR:-$here/../../target}}"
tools="$here/tools"
# Counted up when the same sources are to be built in another way.
recipe=2

control_plane=(kube-apiserver kube-controller-manager kubectl helm helm3)
others=(cert-manager definitions.yaml)
node=(kube-scheduler kubelet kube-proxy coredns pause probe)

main() {
  local programs=("${control_plane[@]}")
  case "$profile" in
  control-plane) programs+=("${others[@]}") ;;
  cluster) programs+=("${node[@]}") ;;
  *)
    echo "usage: tests/kube/setup.sh control-plane|cluster [TARGET_DIRECTORY]" >&2
    exit 64
    ;;
  esac
  mkdir -p "$target/kube/bin"
  target="$(cd "$target" && pwd)"
  bin="$target/kube/bin"
  built="$(cache)"
  built+="/$(fingerprint)"
  mkdir -p "$built"
  forget_old_versions
  # Two test runs at once build once. A run that has everything waits for nobody.
  if ! complete "${programs[@]}"; then
    exec 9>"$built/.lock"
    flock 9
  fi
  install_debian_packages
  build "${programs[@]}"
  link "${programs[@]}"
  report
  echo "$bin"
}

missing=()

say() { echo "kube: $*" >&2; }

# Kept between checkouts where there is a home directory to write to.
cache() {
  local kept="${HOME:-}/.cache/headwater/kube"
  if [[ -n ${HOME:-} ]] && mkdir -p "$kept" 2>/dev/null && [[ -w $kept ]]; then
    echo "$kept"
  else
    echo "$target/kube/built"
  fi
}

# Everything that decides what is built.
fingerprint() {
  { echo "$recipe" && cd "$tools" && find . -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-16
}

# What no checkout has asked for in two weeks.
forget_old_versions() {
  touch "$built"
  find "$(dirname "$built")" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -rf {} +
}

# A program that somebody brought.
brought() {
  [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$1 ]]
}

complete() {
  local program
  for program; do
    brought "$program" || [[ -e $built/$program ]] || return 1
  done
}

# Also finds what Debian keeps out of a user's PATH.
has() {
  [[ -x $bin/$1 ]] || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null
}

install_debian_packages() {
  local packages=()
  brought etcd || has etcd || packages+=(etcd-server)
  has openssl || packages+=(openssl)
  has setpriv || packages+=(util-linux)
  if [[ $profile == cluster ]]; then
    ((EUID == 0)) || missing+=("root: a node makes namespaces, mounts and bridges")
    { has containerd && has ctr; } || packages+=(containerd)
    has runc || packages+=(runc)
    [[ -x /usr/lib/cni/bridge || -x /opt/cni/bin/bridge ]] || packages+=(containernetworking-plugins)
    has iptables || packages+=(iptables)
    has nft || packages+=(nftables)
    has conntrack || packages+=(conntrack)
    has ip || packages+=(iproute2)
    has socat || packages+=(socat)
    has python3 || packages+=(python3)
  fi
  install_packages "${packages[@]}"
}

# Builds what is not there, one module after the other.
build() {
  local program
  local -A wanted=()
  for program; do
    brought "$program" || [[ -e $built/$program ]] || wanted[$program]=yes
  done
  ((${#wanted[@]})) || return 0
  if ! find_go; then
    missing+=("${!wanted[*]}: install Go 1.26 or newer to build them, or set KUBEBUILDER_ASSETS to a directory with them")
    return 0
  fi
  prepare_go
  local packages=() flags
  for program in kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do
    [[ -z ${wanted[$program]:-} ]] || packages+=("k8s.io/kubernetes/cmd/$program")
  done
  # Assigned first: a failure inside of an argument would pass unnoticed.
  flags="$(kubernetes_version)"
  go_build kubernetes "$flags" "${packages[@]}"
  flags="$(helm_version helm 4)"
  [[ -z ${wanted[helm]:-} ]] || go_build helm "$flags" helm.sh/helm/v4/cmd/helm
  flags="$(helm_version helm3 3)"
  [[ -z ${wanted[helm3]:-} ]] || go_build helm3 "$flags" helm.sh/helm/v3/cmd/helm
  packages=()
  for program in coredns pause probe; do
    [[ -z ${wanted[$program]:-} ]] || packages+=("./$program")
  done
  go_build images '' "${packages[@]}"
  [[ -z ${wanted[cert-manager]:-} ]] || go_build cert-manager '' .
  [[ -z ${wanted[definitions.yaml]:-} ]] || definitions
}

# Definitions of other operators' kinds, from the sources of their releases.
definitions() {
  local issuers monitors
  if issuers="$(sources cert-manager github.com/cert-manager/cert-manager)/deploy/crds" &&
    monitors="$(sources prometheus-operator github.com/prometheus-operator/prometheus-operator)/example/prometheus-operator-crd" &&
    cat "$issuers"/cert-manager.io_*.yaml "$monitors/monitoring.coreos.com_podmonitors.yaml" >"$built/.definitions"; then
    mv "$built/.definitions" "$built/definitions.yaml"
  else
    missing+=("definitions.yaml (the modules of tests/kube/tools/{cert-manager,prometheus-operator} are not to be had: see above)")
  fi
}

# Where the source of a package of a module is: MODULE PACKAGE.
sources() {
  (cd "$tools/$1" && go mod download "$2" >&2 && go list -m -f '{{.Dir}}' "$2")
}

find_go() {
  command -v go >/dev/null && return 0
  [[ -x /usr/local/go/bin/go ]] || return 1
  PATH="$PATH:/usr/local/go/bin"
}

prepare_go() {
  # Static programs: they run in images without a C library, and no C compiler is needed.
  export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off
  [[ -n ${HOME:-} ]] || export GOPATH="$target/kube/go" GOCACHE="$target/kube/go-build"
}

# The version of a package that a module requires: MODULE PACKAGE.
required() {
  local version
  version="$(sed -nE "s#^(require)?[[:space:]]*$2 (v[0-9.]+)( // indirect)?\$#\2#p" "$tools/$1/go.mod")"
  [[ $version == v*.*.* ]] || {
    say "tests/kube/tools/$1/go.mod does not say which version of $2 it requires"
    return 1
  }
  echo "$version"
}

# Without these, the programs take themselves for a development version and refuse newer or older partners.
kubernetes_version() {
  local version major minor package=k8s.io/component-base/version
  version="$(required kubernetes k8s.io/kubernetes)" || return
  IFS=. read -r major minor _ <<<"${version#v}"
  echo "-X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
}

helm_version() {
  local version
  version="$(required "$1" "helm.sh/helm/v$2")" || return
  echo "-X helm.sh/helm/v$2/internal/version.version=$version"
}

# MODULE VERSION-FLAGS PACKAGES…
go_build() {
  local module="$1" flags="$2" new="$built/.new" start=$SECONDS
  shift 2
  (($#)) || return 0
  say "building ${*##*/} from source (once; this takes minutes)"
  rm -rf "$new"
  mkdir "$new"
  if ! (cd "$tools/$module" && go build -trimpath -ldflags "-s -w $flags" -o "$new/" "$@") >&2; then
    missing+=("${*##*/} (go build in tests/kube/tools/$module failed: see above)")
    return 0
  fi
  # A program of an interrupted build is never taken for a whole one.
  if [[ $module == helm3 ]]; then mv "$new/helm" "$new/helm3"; fi
  mv "$new"/* "$built/"
  rmdir "$new"
  say "built ${*##*/} in $((SECONDS - start)) s"
}

# One directory with everything, whatever it came from.
link() {
  local program
  for program; do
    if brought "$program"; then
      ln -sfn "$KUBEBUILDER_ASSETS/$program" "$bin/$program"
    elif [[ -e $built/$program ]]; then
      ln -sfn "$built/$program" "$bin/$program"
    fi
  done
  if brought etcd; then
    ln -sfn "$KUBEBUILDER_ASSETS/etcd" "$bin/etcd"
  elif ! [[ -x $bin/etcd ]] && command -v etcd >/dev/null; then
    ln -sfn "$(command -v etcd)" "$bin/etcd"
  fi
}

report() {
  ((${#missing[@]})) || return 0
  {
    echo
    echo "A real Kubernetes ($profile) cannot run. Missing:"
    printf '  - %s\n' "${missing[@]}"
  } >&2
  exit 1
}

main
