#!/usr/bin/env bash
# Adds to the root file system of Headwater's image what is not run: its software bill of materials, its licence, and
# the licence texts of every crate in the program.
#
# Usage: deploy/image/documents.sh TARGET_TRIPLE DPKG_STATUS_DIRECTORY ROOT_DIRECTORY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
triple="$1" status="$(realpath "$2")"
mkdir -p "$3"
root="$(realpath "$3")"

python3 deploy/image/sbom.py --target "$triple" --status "$status" \
  --notices "$root/usr/share/doc/headwater/third-party-licences.txt" "$root/usr/share/headwater/sbom.spdx.json"
install -m 644 LICENSE "$root/usr/share/doc/headwater/copyright"
chmod -R u=rwX,go=rX "$root/usr"
