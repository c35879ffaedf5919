#!/bin/sh
# Puts Debian's docker into a directory (build/docker unless named), for the tests that compare with it. Nothing is
# installed: its package would start a daemon that changes the firewall of this machine.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
place=${1:-$top/build/docker}
[ -x "$place/usr/sbin/dockerd" ] && exit 0
command -v apt-get >/dev/null || exit 0
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
cd "$packages"
apt-get download -qq docker.io containerd tini 2>/dev/null || {
	echo "layerfs: docker.io cannot be downloaded; the tests that compare with it are left out" >&2
	exit 0
}
mkdir -p "$place"
for package in *.deb; do
	dpkg-deb -x "$package" "$place"
done
