#!/usr/bin/env bash
# Gives every node of a cluster an image: an OCI or Docker archive, as `docker save`, buildah or image.py write it. Pods
# name it as the archive does, with `imagePullPolicy: IfNotPresent`.
#
# Usage: import.sh WORK_DIRECTORY ARCHIVE
# shellcheck source-path=SCRIPTDIR
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/lib.sh"
source "$here/node.sh"
use_work_directory "${1:-}"
archive="${2:-}"
[[ -f $archive ]] || die "usage: import.sh WORK_DIRECTORY ARCHIVE"
# Nodes that join later get it too.
cp "$archive" "$work/images/$(basename "$archive" .tar).tar"
for node in "$work"/run/node*; do
  import_image "${node##*/}" "$archive"
done
