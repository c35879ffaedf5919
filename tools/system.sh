#!/bin/sh
# Installs the Debian packages that layerfs's build, tests and demo need and that are missing. Does nothing when all are there.
set -eu
packages="python3-venv python3-dev gcc libc6-dev make libfuse2 fuse3 erofs-utils skopeo umoci attr acl busybox-static zstd mmdebstrap podman fuse-overlayfs"
missing=""
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "layerfs: these Debian packages are missing (install them as root):$missing" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
