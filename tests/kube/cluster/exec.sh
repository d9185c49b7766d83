#!/usr/bin/env bash
# Runs a command in a node's namespaces, as its administrator: kubectl and helm are in its PATH and set up.
#
# Usage: exec.sh WORK_DIRECTORY [--node NODE] COMMAND…
# shellcheck source-path=SCRIPTDIR
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/lib.sh"
use_work_directory "${1:-}"
shift
node=node1
if [[ ${1:-} == --node ]]; then
  node="${2:-}"
  shift 2
fi
(($#)) || die "usage: exec.sh WORK_DIRECTORY [--node NODE] COMMAND…"
process="$(node_process "$node")" || die "$node does not run in $work"

export PATH="$bin:$PATH" KUBECONFIG="$work/admin.kubeconfig" KUBECACHEDIR="$work/home/kube" \
  HELM_CACHE_HOME="$work/home/helm-cache" HELM_CONFIG_HOME="$work/home/helm-config" HELM_DATA_HOME="$work/home/helm-data"
exec nsenter --target "$process" --mount --net --pid --wdns="$PWD" -- "$@"
