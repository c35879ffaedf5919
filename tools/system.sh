#!/bin/sh
# system.sh [all | PACKAGE...]: installs the Debian packages that are missing of those that building and using layerfs
# takes; with `all`, of those that its tests and benchmarks take, too; or those named. Does nothing, quickly, when all
# are there.
set -eu
build="python3-venv python3-dev gcc libc6-dev"
mounts="mount fuse3 libfuse2 kmod"
# what running containers takes: the filter compiler, and the rules of networks
runs="libseccomp2 nftables iproute2"
# what the tutorial's image is made of
tutorial="busybox-static"
# peers and tools of the tests and benchmarks
tests="acl attr btrfs-progs bubblewrap catatonit crun diffutils docker-registry e2fsprogs erofs-utils fio fuse-overlayfs git libarchive-tools mmdebstrap openssl podman procps runc skopeo umoci xfsprogs xz-utils zstd"
needed="$build $mounts $runs $tutorial"
packages=${*:-$needed}
[ "$packages" != all ] || packages="$needed $tests"

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
