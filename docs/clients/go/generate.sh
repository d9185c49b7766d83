#!/usr/bin/env bash
# Makes headwaterv1/ from the proto files. Needs protoc: PROTOC, or that of Python's grpcio-tools.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
proto=../../../proto
read -ra protoc <<<"${PROTOC:-python3 -m grpc_tools.protoc}"
bin="$(go env GOPATH)/bin"
[[ -x $bin/protoc-gen-go ]] || go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.10
[[ -x $bin/protoc-gen-go-grpc ]] || go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
files=()
mappings=()
for file in "$proto"/headwater/v1/*.proto; do
  name="headwater/v1/${file##*/}"
  files+=("$name")
  mappings+=("--go_opt=M$name=./headwaterv1" "--go-grpc_opt=M$name=./headwaterv1")
done
PATH="$bin:$PATH" "${protoc[@]}" -I "$proto" --go_out=. --go-grpc_out=. "${mappings[@]}" "${files[@]}"
