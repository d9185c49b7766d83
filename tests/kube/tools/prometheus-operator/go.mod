// The definitions of the Prometheus operator's kinds: files of its release, no program (tests/kube/setup.sh).
module headwater.dev/tests/kube/tools/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0 // indirect
