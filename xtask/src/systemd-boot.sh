#!/bin/sh
# Boots systemd as process 1 of namespaces, on a copy of this machine's root that keeps nothing.
# $1: an empty folder to mount that on. $2: a folder that is to be seen at the same place inside.
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir -p dev/shm dev/pts "./$2"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount --bind "$2" "./$2"
# What this machine has enabled is not to be started here.
rm -rf etc/systemd/system/*.wants
# A package's service is started although nothing else is.
rm -f usr/sbin/policy-rc.d
echo orchestrate-trace-test >etc/hostname
mkdir old
pivot_root . old
umount -l old
exec env -i container=orchestrate-trace-test PATH="$PATH" /lib/systemd/systemd --unit=basic.target
