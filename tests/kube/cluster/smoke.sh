#!/usr/bin/env bash
# Proves that the cluster works: starts one, uses what its users rely on, adds a node, ends it and looks for what is
# left. Takes about a minute.
#
# Usage: smoke.sh [WORK_DIRECTORY]      (target/e2e)
# shellcheck source-path=SCRIPTDIR
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/lib.sh"
use_work_directory "${1:-}"

main() {
  "$here/down.sh" "$work"
  local before
  before="$(traces)"
  # Ends in any case; what the programs said stays.
  trap '"$here/down.sh" "$work"' EXIT
  "$here/up.sh" "$work"
  check "three replicas of an image are ready" three_replicas
  check "a pod finds a Service by its name" serves_by_name
  check "a node port reaches the pods" node_port
  check "a command runs in a pod" kube exec deployment/probe -- /probe lookup kubernetes.default
  "$here/add-node.sh" "$work" node2
  check "pods spread over both nodes" spreads
  check "a pod on the second node finds a Service by its name" second_node_serves
  check "a chart is installed" installs_chart
  trap - EXIT
  local start=$EPOCHREALTIME
  "$here/down.sh" "$work"
  say "the cluster was down after $(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s"
  check "nothing is left" same "$before" "$(traces)"
}

# What is ready is reachable a moment later: WHAT COMMAND…
check() {
  local what="$1" deadline=$((SECONDS + 30))
  shift
  until "$@" >"$work/logs/check" 2>&1; do
    if ((SECONDS >= deadline)); then
      cat "$work/logs/check" >&2
      die "NOT: $what"
    fi
    sleep 0.2
  done
  say "ok: $what"
}

kube() { "$here/exec.sh" "$work" kubectl "$@"; }

three_replicas() {
  kube apply --server-side --filename - <<'OBJECTS'
apiVersion: apps/v1
kind: Deployment
metadata: {name: probe}
spec:
  replicas: 3
  selector: {matchLabels: {app: probe}}
  template:
    metadata: {labels: {app: probe}}
    spec:
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      # One at least on each node.
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: probe}}
      containers:
      - name: probe
        image: registry.local/probe:1
        imagePullPolicy: IfNotPresent
        args: [serve]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
---
apiVersion: v1
kind: Service
metadata: {name: probe}
spec:
  type: NodePort
  selector: {app: probe}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
OBJECTS
  kube rollout status deployment/probe --timeout=60s
}

serves_by_name() {
  kube exec deployment/probe -- /probe get http://probe.default.svc.cluster.local/
}

node_port() { "$here/exec.sh" "$work" "$bin/probe" get "http://$SERVER:30080/"; }

spreads() {
  kube rollout restart deployment/probe
  kube rollout status deployment/probe --timeout=60s
  [[ $(kube get pods --selector app=probe --field-selector spec.nodeName=node2 --output name) == pod/* ]]
}

second_node_serves() {
  local pod
  pod="$(kube get pods --selector app=probe --field-selector spec.nodeName=node2 --output name | head -n 1)"
  # More often than there are pods: some answers come from the other node.
  for _ in {1..9}; do
    kube exec "$pod" -- /probe get http://probe/
  done
}

installs_chart() {
  local chart="$work/home/chart"
  mkdir -p "$chart/templates"
  echo '{apiVersion: v2, name: probe, version: 1.0.0}' >"$chart/Chart.yaml"
  kube create deployment chart --image registry.local/probe:1 --replicas 2 --dry-run=client --output yaml -- /probe serve \
    >"$chart/templates/deployment.yaml"
  "$here/exec.sh" "$work" helm install chart "$chart" --wait --timeout 60s
}

same() { diff <(echo "$1") <(echo "$2"); }

# What a cluster could leave on a machine.
traces() {
  echo "mounts: $(grep -cF "$work" /proc/self/mountinfo)"
  echo "links: $(ip -br link | awk '{ print $1 }' | sort | tr '\n' ' ')"
  echo "groups: $(find /sys/fs/cgroup -type d \( -name 'kubepods*' -o -name "$cgroup" \) 2>/dev/null | sort | tr '\n' ' ')"
  echo "namespaces: $(lsns --noheadings --raw --output TYPE,COMMAND | grep -cE '/(pause|containerd|kubelet)' || true)"
  echo "processes: $(grep -lF "$work" /proc/[0-9]*/cmdline 2>/dev/null | grep -v "/$$/" | while read -r file; do
    tr '\0' ' ' 2>/dev/null <"$file"
  done 2>/dev/null | grep -vE 'smoke.sh|down.sh' || true)"
  echo "files: $(ls -d /etc/cni /opt/cni /var/lib/kubelet /var/log/pods /var/log/containers /run/containerd /var/lib/containerd 2>/dev/null | tr '\n' ' ')"
}

main
