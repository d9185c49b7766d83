# shellcheck shell=bash
# Sourced: what makes a node of namespaces: containerd, kubelet, kube-proxy.

SOCKET=/run/node/containerd.sock

# NODE: starts the runtime and gives it the images that every node has.
start_runtime() {
  local node="$1" own="$work/$1" snapshotter=overlayfs
  # An overlay does not lie on an overlay (a container's file system).
  [[ $(stat -f -c %T "$work") != overlayfs ]] || snapshotter=native
  cat >"$own/containerd.toml" <<CONFIG
version = 2
root = "$own/containerd"
state = "/run/node/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.local/pause:1"
  disable_tcp_service = true
  # Where this machine may not lower it (no CAP_SYS_RESOURCE), runc would end without a word.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_plugins)"
    conf_dir = "$own/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
CONFIG
  cat >"$own/cni/10-bridge.conflist" <<CONFIG
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "/run/node/addresses",
        "ranges": [[{ "subnet": "$(node_pods "$node")" }]], "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
CONFIG
  start "$node" containerd containerd --config "$own/containerd.toml"
  wait_for "$node's containerd" inside "$node" ctr --address "$SOCKET" version
  local image
  for image in "$work"/images/*.tar; do
    import_image "$node" "$image"
  done
}

cni_plugins() {
  if [[ -x /opt/cni/bin/bridge ]]; then echo /opt/cni/bin; else echo /usr/lib/cni; fi
}

# NODE ARCHIVE
import_image() {
  inside "$1" ctr --address "$SOCKET" --namespace k8s.io images import "$2" >/dev/null
}

# NODE: joins the cluster.
start_kubelet() {
  local node="$1" own="$work/$1" address
  address="$(node_address "$node")"
  certificate "$node" "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$address"
  kubeconfig "$node"
  # Nothing outside of the cluster has a name here.
  echo "nameserver $DNS" >"$own/resolv.conf"
  cat >"$own/kubelet.yaml" <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup/$node
containerRuntimeEndpoint: unix://$SOCKET
imageServiceEndpoint: unix://$SOCKET
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $work/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $work/pki/$node.crt
tlsPrivateKeyFile: $work/pki/$node.key
clusterDNS: [$DNS]
clusterDomain: cluster.local
resolvConf: $own/resolv.conf
volumePluginDir: $own/plugins
failSwapOn: false
enforceNodeAllocatable: [pods]
evictionHard: {memory.available: 100Mi, nodefs.available: 200Mi, nodefs.inodesFree: "1%", imagefs.available: 200Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 4s
CONFIG
  start "$node" kubelet "$bin/kubelet" --config="$own/kubelet.yaml" --kubeconfig="$work/$node.kubeconfig" \
    --root-dir="$own/kubelet" --cert-dir="$own/kubelet-pki" --hostname-override="$node" --node-ip="$address"
}

# NODE: makes Services reachable.
start_proxy() {
  local node="$1" own="$work/$1"
  cat >"$own/kube-proxy.yaml" <<CONFIG
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $work/kube-proxy.kubeconfig}
clusterCIDR: $PODS
hostnameOverride: $node
nodePortAddresses: [primary]
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
metricsBindAddress: 127.0.0.1:10249
healthzBindAddress: 127.0.0.1:10256
CONFIG
  start "$node" kube-proxy "$bin/kube-proxy" --config="$own/kube-proxy.yaml"
}

# NODE: its directories, as its programs expect them.
make_node_directories() {
  mkdir -p "$work/$1"/{cni,cni-state,plugins,sysctl} "$work/logs/$1"
}

node_ready() {
  kubectl wait --for=condition=Ready "node/$1" --timeout=1s
}
