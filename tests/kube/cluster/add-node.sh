#!/usr/bin/env bash
# Adds a node to a running cluster: node2, node3 and so on.
#
# Usage: add-node.sh WORK_DIRECTORY NODE
# shellcheck source-path=SCRIPTDIR
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/lib.sh"
source "$here/pki.sh"
source "$here/control-plane.sh"
source "$here/node.sh"
use_work_directory "${1:-}"
node="${2:-}"

main() {
  [[ $node =~ ^node[2-9]$ ]] || die "usage: add-node.sh WORK_DIRECTORY node2|…|node9"
  node_process node1 >/dev/null || die "no cluster runs in $work"
  ! node_process "$node" >/dev/null || die "$node runs already"
  make_node_directories "$node"
  make_namespaces "$node"
  join_network
  start_runtime "$node"
  start_kubelet "$node"
  start_proxy "$node"
  wait_for "$node to be ready" node_ready "$node"
  say "$node is ready"
}

# Cut a node off, and join it again: exec.sh WORK_DIRECTORY ip link set NODE down|up
join_network() {
  local address
  address="$(node_address "$node")"
  # Only out here both nodes' processes have numbers.
  nsenter --target "$(node_process node1)" --net -- \
    ip link add "$node" type veth peer name eth0 netns "$(node_process "$node")"
  inside node1 ip link set "$node" master nodes up
  inside "$node" ip address add "$address/24" dev eth0
  inside "$node" ip link set eth0 up
  inside "$node" ip route add default via "$SERVER"
  local other
  for other in "$work"/run/node*; do
    other="${other##*/}"
    [[ $other != "$node" ]] || continue
    inside "$other" ip route add "$(node_pods "$node")" via "$address"
    inside "$node" ip route add "$(node_pods "$other")" via "$(node_address "$other")"
  done
}

main
