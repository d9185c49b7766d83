# shellcheck shell=bash
# Sourced by the scripts beside it: where a cluster's files are, its nodes' namespaces, and what runs in them.
#
# A node is a mount, a network and a process namespace. Its first process holds them: with that one everything ends that
# was ever started in the node, and every mount and interface goes.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

SERVER=10.88.0.1
SERVICES=10.96.0.0/16
DNS=10.96.0.10
PODS=10.244.0.0/16
MARK=.headwater-cluster
# For anything that is started to be there; the machine may be busy with a build.
PATIENCE=120

die() {
  echo "cluster: $*" >&2
  exit 1
}

say() { echo "cluster: $*" >&2; }

# The work directory: the script's first argument, or target/e2e.
use_work_directory() {
  work="${1:-${CARGO_TARGET_DIR:-$here/../../../target}/e2e}"
  mkdir -p "$work"
  work="$(cd "$work" && pwd)"
  bin="$work/bin"
  # Two clusters on one machine have different ones.
  cgroup="headwater-$(cksum <<<"$work" | cut -d' ' -f1)"
}

# What a node's number makes of it: node1 has the control plane.
node_address() { echo "10.88.0.${1#node}"; }
node_pods() { echo "10.244.$((${1#node} - 1)).0/24"; }

# The host's id of a node's first process, where it lives.
node_process() {
  local process started
  [[ -e $work/run/$1 ]] || return 1
  read -r process started <"$work/run/$1"
  # The number may be another process's by now.
  [[ $(start_time "$process") == "$started" ]] && echo "$process"
}

start_time() {
  local stat
  stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 0
  # The name, in parentheses, may contain blanks.
  awk '{ print $20 }' <<<"${stat##*) }"
}

# Runs a command in a node's namespaces: NODE COMMAND…
inside() {
  local process
  process="$(node_process "$1")" || die "$1 does not run in $work"
  shift
  nsenter --target "$process" --mount --net --pid --wdns="${PWD}" -- "$@"
}

# Starts a program in a node, and keeps what it prints: NODE NAME COMMAND…
start() {
  local node="$1" name="$2"
  shift 2
  inside "$node" setsid --fork "$@" >"$work/logs/$node-$name.log" 2>&1 </dev/null
}

# Looks until a command succeeds: WHAT COMMAND…
wait_for() {
  local what="$1" deadline=$((SECONDS + PATIENCE))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "waited ${PATIENCE} s in vain for $what; what the programs say is in $work/logs"
    sleep 0.1
  done
}

# Makes a node's namespaces, with the interface `lo` alone.
make_namespaces() {
  local node="$1" parent process
  # No process of this machine gets into the node or out of it but by `inside`.
  setsid unshare --mount --net --pid --fork --mount-proc --propagation private -- \
    "$bin/pause" </dev/null >/dev/null 2>&1 &
  parent=$!
  wait_for "$node's namespaces" pgrep -P "$parent" -x pause
  process="$(pgrep -P "$parent" -x pause)"
  echo "$process $(start_time "$process")" >"$work/run/$node"
  inside "$node" mount --make-rshared /
  inside "$node" ip link set lo up
  hide_machine "$node"
  make_cgroups "$node"
}

# Kubelets change settings of the whole machine and write outside of their directory: both go to files of the node.
hide_machine() {
  local node="$1" own="$work/$1" setting value file
  while read -r setting value; do
    file="$own/sysctl/${setting//\//_}"
    echo "$value" >"$file"
    inside "$node" mount --bind "$file" "/proc/sys/$setting"
  done <<<"vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000"
  inside "$node" sysctl -qw net.ipv4.ip_forward=1
  inside "$node" sysctl -qw net.bridge.bridge-nf-call-iptables=1 ||
    say "no br_netfilter here: a pod may not reach a Service whose pod is on its own node"
  inside "$node" mount -t tmpfs tmpfs /run
  inside "$node" mkdir -p /run/netns /run/node
  mkdir -p /var/lib/cni
  inside "$node" mount --bind "$own/cni-state" /var/lib/cni
  inside "$node" mount --bind "$work/logs/$node" /var/log
}

# Where the pods of a node are accounted.
make_cgroups() {
  local hierarchy own file
  for hierarchy in $(cgroup_hierarchies); do
    own="$hierarchy/$cgroup/$1"
    mkdir -p "$own"
    # A new set of processors or memory banks is empty, and nothing can run in it.
    for file in cpuset.cpus cpuset.mems; do
      [[ -e $hierarchy/cpuset.effective_cpus ]] || continue
      cat "$hierarchy/$file" >"$hierarchy/$cgroup/$file"
      cat "$hierarchy/$file" >"$own/$file"
    done
  done
}

remove_cgroups() {
  local hierarchy
  for hierarchy in $(cgroup_hierarchies); do
    [[ ! -d $hierarchy/$cgroup ]] || find "$hierarchy/$cgroup" -depth -type d -exec rmdir {} +
  done
}

# Version 2 is one; version 1 has one for each controller, and maybe one of version 2 beside them.
cgroup_hierarchies() { findmnt --raw --noheadings --types cgroup,cgroup2 --output TARGET; }
