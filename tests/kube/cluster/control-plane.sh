# shellcheck shell=bash
# Sourced: the control plane, in node1.

start_control_plane() {
  local pki="$work/pki"
  start node1 etcd "$bin/etcd" --data-dir "$work/node1/etcd" --unsafe-no-fsync
  start node1 kube-apiserver "$bin/kube-apiserver" \
    --etcd-servers=http://127.0.0.1:2379 \
    --bind-address=0.0.0.0 --advertise-address=$SERVER --secure-port=6443 \
    --tls-cert-file="$pki/kube-apiserver.crt" --tls-private-key-file="$pki/kube-apiserver.key" \
    --client-ca-file="$pki/ca.crt" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$pki/service-accounts.pub" \
    --service-account-signing-key-file="$pki/service-accounts.key" \
    --service-cluster-ip-range=$SERVICES --allow-privileged=true \
    --kubelet-client-certificate="$pki/kubelet-client.crt" --kubelet-client-key="$pki/kubelet-client.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --feature-gates=WatchList=false
  wait_for "the API server" kubectl get --raw=/readyz
  start node1 kube-controller-manager "$bin/kube-controller-manager" \
    $(authenticated kube-controller-manager) --use-service-account-credentials \
    --service-account-private-key-file="$pki/service-accounts.key" --root-ca-file="$pki/ca.crt" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
    --allocate-node-cidrs --cluster-cidr=$PODS --service-cluster-ip-range=$SERVICES
  start node1 kube-scheduler "$bin/kube-scheduler" $(authenticated kube-scheduler)
}

# How a component that serves metrics alone reaches the API server. A path of this has no blank (up.sh refuses one).
authenticated() {
  local file="$work/$1.kubeconfig"
  echo "--kubeconfig=$file --authentication-kubeconfig=$file --authorization-kubeconfig=$file" \
    "--bind-address=127.0.0.1 --leader-elect=false"
}

kubectl() {
  inside node1 "$bin/kubectl" --kubeconfig "$work/admin.kubeconfig" --cache-dir "$work/home/kube" "$@"
}
