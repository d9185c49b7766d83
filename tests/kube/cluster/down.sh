#!/usr/bin/env bash
# Ends a cluster and everything that ever ran in it. Its logs stay until the next one starts.
#
# Usage: down.sh [WORK_DIRECTORY]      (target/e2e)
# shellcheck source-path=SCRIPTDIR
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/lib.sh"
use_work_directory "${1:-}"

main() {
  [[ -e $work/$MARK ]] || return 0
  local node process
  for node in "$work"/run/node*; do
    node="${node##*/}"
    process="$(node_process "$node")" || continue
    # The first process of a node: the kernel ends all others.
    kill -KILL "$process"
    wait_for "$node to end" ended "$process"
  done
  wait_for "the pods' groups to go" remove_cgroups
  # The path is ours: `up.sh` made it, or found it empty, and left the mark.
  find "$work" -mindepth 1 -maxdepth 1 ! -name logs ! -name "$MARK" -exec rm -rf {} +
}

ended() { [[ ! -e /proc/$1 ]]; }

main
