#!/usr/bin/env bash
# Makes the root file system of an image around one program: the program without its debug information, the shared
# libraries that it loads and their licences, root certificates, a user, and nothing else. No shell, no package manager.
#
# Usage: deploy/image/rootfs.sh PROGRAM DIRECTORY [SYSROOT]
#   PROGRAM    goes to /usr/bin under its own name; its loader is asked what it loads
#   DIRECTORY  must be new or empty
#   SYSROOT    where the libraries of a program for another architecture are (sysroot.sh); needs qemu-user and that
#              architecture's strip
# Runs on Debian: which package a library is from, and under which licence, comes from there.
set -euo pipefail

readonly user=headwater id=65532
program="$(realpath "$1")"
# Some programs are told by their name what to do.
name="${1##*/}"
root="$2"
sysroot="${3:+$(realpath "$3")}"

main() {
  mkdir -p "$root"
  if [[ -n $(ls -A "$root") ]]; then
    echo "rootfs: $root is not empty" >&2
    exit 64
  fi
  root="$(cd "$root" && pwd)"
  make_directories
  install_program
  install_libraries
  install_certificates
  make_users
  # Whatever the umask: only the owner, root, may write; an image keeps no time of its making.
  chmod -R u=rwX,go=rX "$root"
  chmod 1777 "$root/tmp"
  find "$root" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
}

make_directories() {
  mkdir -p "$root"/{etc/ssl/certs,tmp,usr/bin,usr/share/doc,var/lib/dpkg/status.d}
}

install_program() {
  # Symbols stay: a panic's backtrace names its functions.
  local strip=strip
  [[ -z $sysroot ]] || strip="$(machine)-linux-gnu-strip"
  "$strip" --strip-debug --remove-section=.comment -o "$root/usr/bin/$name" "$program"
  chmod 755 "$root/usr/bin/$name"
}

# The loader and everything that it would load, where the program looks for them.
install_libraries() {
  local library
  while read -r library; do
    install -D -m 755 "$(realpath "$sysroot$library")" "$root$library"
    record_package "$library" "$sysroot"
  done < <(loaded | grep -oE '(^|[[:space:]])/[^[:space:]]+' | tr -d '[:blank:]' | sed "s#^$sysroot/#/#" | sort -u)
}

loaded() {
  local loader
  if [[ -z $sysroot ]]; then
    ldd "$program"
  else
    loader="$(readelf --program-headers --wide "$program" | sed -nE 's/.*interpreter: ([^]]+)\]/\1/p')"
    "qemu-$(machine)" -L "$sysroot" "$sysroot$loader" --list "$program"
  fi
}

# As `uname -m` says it there.
machine() {
  readelf --file-header "$program" | sed -nE 's/^ *Machine: *(.*)/\L\1/p'
}

install_certificates() {
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  record_package /usr/share/ca-certificates
}

# Scanners find the versions of what is here in status.d, one file for each package; people find the licences.
# FILE [SYSROOT]
record_package() {
  local package from="${2:-}"
  package="$(owner_of "$1" "$from")"
  [[ ! -e $root/var/lib/dpkg/status.d/$package ]] || return 0
  dpkg-query --admindir="$from/var/lib/dpkg" --show --showformat='Package: ${Package}
Status: install ok installed
Architecture: ${Architecture}
Source: ${source:Package} (${source:Version})
Version: ${Version}
Maintainer: ${Maintainer}
Description: ${binary:Summary}
' "$package" >"$root/var/lib/dpkg/status.d/$package"
  install -D -m 644 "$from/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
}

# Where /lib is a link to /usr/lib, packages know some files by one name and some by the other.
owner_of() {
  local name found
  local real
  real="$(realpath "$2$1")"
  real="${real#"$2"}"
  for name in "$1" "/usr$1" "${1#/usr}" "$real" "/usr$real" "${real#/usr}"; do
    if found="$(dpkg-query --admindir="$2/var/lib/dpkg" --search "$name" 2>/dev/null)"; then
      found="${found%%: /*}"
      found="${found%%,*}"
      echo "${found%%:*}"
      return 0
    fi
  done
  echo "rootfs: no package has $1: the licence of what is in the image must be known" >&2
  return 1
}

make_users() {
  echo "root:x:0:0:root:/:/usr/sbin/nologin
$user:x:$id:$id:$user:/tmp:/usr/sbin/nologin" >"$root/etc/passwd"
  echo "root:x:0:
$user:x:$id:" >"$root/etc/group"
  # As every Debian has it: the C library's own default would ask DNS before it reads /etc/hosts.
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
}

main
