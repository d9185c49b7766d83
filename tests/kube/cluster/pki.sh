# shellcheck shell=bash
# Sourced: the certificates of a cluster, under its work directory.

# NAME SUBJECT [ALTERNATIVE-NAMES]: a certificate for a server, a client, or both.
certificate() {
  local name="$work/pki/$1" subject="$2" names="${3:-}"
  {
    echo "extendedKeyUsage=serverAuth,clientAuth"
    [[ -z $names ]] || echo "subjectAltName=$names"
  } >"$name.ext"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$subject" \
    -keyout "$name.key" -out "$name.csr" 2>>"$work/logs/openssl.log"
  openssl x509 -req -in "$name.csr" -CA "$work/pki/ca.crt" -CAkey "$work/pki/ca.key" -days 3650 \
    -extfile "$name.ext" -out "$name.crt" 2>>"$work/logs/openssl.log"
  rm "$name.ext" "$name.csr"
}

# NAME: how the owner of that certificate reaches the API server, in a file that needs no other.
kubeconfig() {
  local file="$work/$1.kubeconfig"
  cat >"$file" <<CONFIG
apiVersion: v1
kind: Config
clusters:
- name: e2e
  cluster: {server: "https://$SERVER:6443", certificate-authority-data: $(base64 -w0 "$work/pki/ca.crt")}
users:
- name: e2e
  user:
    client-certificate-data: $(base64 -w0 "$work/pki/$1.crt")
    client-key-data: $(base64 -w0 "$work/pki/$1.key")
contexts: [{name: e2e, context: {cluster: e2e, user: e2e}}]
current-context: e2e
CONFIG
  chmod 600 "$file"
}

make_pki() {
  mkdir -p "$work/pki"
  local ca="$work/pki/ca" accounts="$work/pki/service-accounts"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=kubernetes \
    -keyout "$ca.key" -out "$ca.crt" 2>>"$work/logs/openssl.log"
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$accounts.key"
  openssl pkey -in "$accounts.key" -pubout -out "$accounts.pub"
  certificate kube-apiserver /CN=kube-apiserver \
    "IP:127.0.0.1,IP:$SERVER,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate admin /O=system:masters/CN=admin
  local component
  for component in kube-controller-manager kube-scheduler kube-proxy; do
    certificate "$component" "/CN=system:$component"
    kubeconfig "$component"
  done
  kubeconfig admin
}
