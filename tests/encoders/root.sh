# Runs a program of the encoders' root directory, with WORK as its /mnt and WORK/certs as the only certificates that it
# trusts. Inside of a mount namespace: sh root.sh ROOT WORK PROGRAM [ARGUMENT...]
set -e
root="$1" work="$2"
shift 2
for directory in dev proc sys; do
  mount --rbind "/$directory" "$root/$directory"
done
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$work" "$root/mnt"
mount --bind "$work/certs" "$root/etc/ssl/certs"
exec /usr/sbin/chroot "$root" "$@"
