#!/usr/bin/env bash
# Starts a Kubernetes cluster of one node on this machine, in namespaces of its own: etcd, the control plane,
# containerd, a kubelet, kube-proxy and CoreDNS. Needs root and what `tests/kube/setup.sh cluster` gets.
#
# Usage: up.sh [WORK_DIRECTORY]      (target/e2e)
# shellcheck source-path=SCRIPTDIR
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/lib.sh"
source "$here/pki.sh"
source "$here/control-plane.sh"
source "$here/node.sh"
use_work_directory "${1:-}"

main() {
  ((EUID == 0)) || die "needs root: it makes namespaces, mounts and bridges"
  [[ $work != *[[:space:]\"]* ]] || die "the path of the work directory may not have blanks or quotes in it: $work"
  local start=$EPOCHREALTIME
  clean_start
  make_images
  make_pki
  make_namespaces node1
  make_network
  start_runtime node1 &
  local runtime=$!
  start_control_plane
  say "the API server answers after $(since "$start") s"
  wait "$runtime"
  start_kubelet node1
  start_proxy node1
  wait_for "node1 to be ready" node_ready node1
  say "node1 is ready after $(since "$start") s"
  kubectl apply --server-side --filename "$here/coredns.yaml" >/dev/null
  wait_for "CoreDNS" kubectl --namespace kube-system rollout status deployment/coredns --timeout=1s
  wait_for "the default ServiceAccount" kubectl get serviceaccount default
  say "the cluster is up after $(since "$start") s; tests/kube/cluster/README.md says how to use it"
}

# A work directory is emptied, and so must be one.
clean_start() {
  if [[ ! -e $work/$MARK && -n $(ls -A "$work") ]]; then
    die "$work is not empty and no cluster's work directory"
  fi
  "$here/down.sh" "$work"
  touch "$work/$MARK"
  rm -rf "$work/logs"
  mkdir "$work"/{home,images,logs,run}
  local programs
  programs="$(bash "$here/../setup.sh" cluster)"
  ln -s "${programs##*$'\n'}" "$work/bin"
  make_node_directories node1
}

make_images() {
  "$here/image.py" "$work/images/pause.tar" registry.local/pause:1 --entrypoint /pause "$bin/pause=/pause"
  "$here/image.py" "$work/images/coredns.tar" registry.local/coredns:1 --entrypoint /coredns "$bin/coredns=/coredns"
  "$here/image.py" "$work/images/probe.tar" registry.local/probe:1 --entrypoint /probe "$bin/probe=/probe"
}

# The node's address is that of a bridge, which other nodes join. There is no way out of it.
make_network() {
  inside node1 ip link add nodes type bridge
  inside node1 ip address add "$SERVER/24" dev nodes
  inside node1 ip link set nodes up
  # Programs take the address of their default route for the node's own.
  inside node1 ip route add default dev nodes src "$SERVER"
}

since() { awk -v start="$1" -v now="$EPOCHREALTIME" 'BEGIN { printf "%.1f", now - start }'; }

main
