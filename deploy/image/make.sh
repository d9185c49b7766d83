#!/usr/bin/env bash
# Makes Headwater's image, as an OCI archive, from a program that is built already: no daemon, no registry, no network.
# Load it with `docker load`, `podman load`, `skopeo copy oci-archive:…` or `ctr --namespace k8s.io images import`.
#
# Usage: deploy/image/make.sh PROGRAM ARCHIVE [REPOSITORY:TAG]
# Runs on Debian, with python3 (3.11 or newer), binutils and cargo. The image is for the program's architecture; where that
# is not this machine's, also with qemu-user and that architecture's binutils (binutils-aarch64-linux-gnu).
set -euo pipefail
program="$(realpath "$1")"
mkdir -p "$(dirname "$2")"
archive="$(realpath "$2")"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
version="$(sed -n '/^\[workspace\.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)"
name="${3:-headwater:$version}"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
# The time of the last commit, so that the same source gives the same image.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# The entry point has this name, whatever the program is called here.
mkdir "$scratch/program"
cp "$program" "$scratch/program/headwater"
case "$(readelf --file-header "$program")" in
*X86-64*) machine=x86_64 architecture=amd64 ;;
*AArch64*) machine=aarch64 architecture=arm64 ;;
*)
  echo "image: no image is made for the architecture of $program" >&2
  exit 1
  ;;
esac
sysroot=()
if [[ $machine != "$(uname -m)" ]]; then
  sysroot=("$scratch/sysroot")
  bash deploy/image/sysroot.sh "$architecture" "${sysroot[@]}"
fi
bash deploy/image/rootfs.sh "$scratch/program/headwater" "$scratch/rootfs" "${sysroot[@]}"
bash deploy/image/documents.sh "$machine-unknown-linux-gnu" "$scratch/rootfs/var/lib/dpkg/status.d" "$scratch/rootfs"
python3 deploy/image/build.py --file deploy/Dockerfile --name "$name" --architecture "$architecture" \
  --build-arg VERSION="$version" --build-arg REVISION="$revision" "$scratch/rootfs" "$archive"
echo "$archive: $name, $(du -k "$archive" | cut -f1) KiB"
