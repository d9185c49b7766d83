#!/usr/bin/env bash
# Unpacks what the program loads of Debian for another architecture than this machine's, with what dpkg knows about it, from
# the package sources of this system. Nothing is installed.
#
# Usage: deploy/image/sysroot.sh ARCHITECTURE DIRECTORY      (arm64, amd64)
set -euo pipefail
architecture="$1" root="$(realpath "$2")"
packages=(libc6 libgcc-s1)

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# Apt downloads as a user without rights.
chmod 755 "$scratch"
mkdir -p "$scratch"/{lists,cache/archives}/partial "$scratch/packages" "$root/var/lib/dpkg/info"

# Lists and cache of its own: this system stays one of one architecture.
apt() {
  apt-get -q -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=root \
    -o Dir::State::Lists="$scratch/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$scratch/cache" "$@" >&2
}
apt update
cd "$scratch/packages"
apt download "${packages[@]}"
# Its licence is there.
apt download "$(dpkg-deb --field libgcc-s1_*.deb Depends | grep -oE '^gcc-[0-9]+-base')"

for package in "$scratch"/packages/*.deb; do
  dpkg-deb --extract "$package" "$root"
  name="$(dpkg-deb --field "$package" Package)"
  dpkg-deb --fsys-tarfile "$package" | tar --list | sed 's#^\.##; s#/$##; /^$/d' >"$root/var/lib/dpkg/info/$name:$architecture.list"
  dpkg-deb --field "$package"
  printf 'Status: install ok installed\n\n'
done >"$root/var/lib/dpkg/status"
echo "$architecture" >"$root/var/lib/dpkg/arch"
# Names of packages have their architecture in them.
echo 1 >"$root/var/lib/dpkg/info/format"
