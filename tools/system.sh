#!/bin/sh
# Installs the Debian packages that layerfs's build, demo and tests need and that are missing, or those named as
# arguments. Does nothing, quickly, when all are there.
set -eu
build="python3-venv python3-dev gcc libc6-dev"
mounts="mount fuse3 libfuse2 kmod"
# what running containers takes: the filter compiler, and the rules of networks
runs="libseccomp2 nftables iproute2"
# peers and tools of the tests and benchmarks
tests="acl attr btrfs-progs bubblewrap busybox-static catatonit crun diffutils docker-registry e2fsprogs erofs-utils fio fuse-overlayfs git libarchive-tools mmdebstrap openssl podman procps runc skopeo umoci xfsprogs xz-utils zstd"
packages=${*:-$build $mounts $runs $tests}

if ! command -v dpkg-query >/dev/null; then
	echo "layerfs: not Debian; the programs needed are those of these packages: $packages" >&2
	exit 0
fi
# shellcheck disable=SC2086 # a list
there=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null | sed -n 's/^installed //p') || true
missing=$(printf '%s\n' $packages | grep -vxF "$there" | tr '\n' ' ') || true
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "layerfs: these Debian packages are missing, and only root can install them: $missing" >&2
	echo "layerfs: as root: apt-get install --no-install-recommends $missing" >&2
	exit 1
fi
echo "layerfs: installing $missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
if ! log=$(apt-get install -y -qq --no-install-recommends $missing 2>&1 </dev/null); then
	printf '%s\n' "$log" >&2
	exit 1
fi
