#!/bin/busybox sh
# The guest's first process: mounts what a host has, runs the groups of /vm/groups and powers off.
# It talks to mesh-vm by console lines that begin with $TAG, which /vm/groups sets.
/bin/busybox mkdir -p /proc /sys /dev /busybox /run /tmp /etc /root /var /mnt
/bin/busybox --install -s /busybox
# The real tools first: busybox has poorer ones of the same names.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/root TMPDIR=/tmp CI=true MESH_VM=1 RUST_BACKTRACE=1 MESH_TEST_SLOW=6
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for at in /dev/shm /run /tmp; do
	# Not over what was brought along: a checkout may lie below /tmp, and programs are at their own paths.
	[ -n "$(ls -A $at)" ] || mount -t tmpfs tmpfs $at
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
hostname mesh-vm
ip link set lo up
# As systemd gives it to services.
ulimit -Hn 524288
# 5.10 does not load it when it is asked for by its netlink name.
modprobe ip_vs

say() { echo; echo "$TAG $*"; }
# group NAME SECONDS PROGRAM ARGUMENT...
group() {
	name=$1 limit=$2
	shift 2
	say start "$name"
	timeout -s KILL "$limit" "$@" </dev/null
	say end "$name" $?
	# What it left running is not to disturb the next one. The kernel spares the first process.
	kill -KILL -1
}

. /vm/tag
say ready "$(cut -d' ' -f1 /proc/uptime)" "$(uname -r)"
. /vm/groups
say done
poweroff -f
